"""What became of grants, counted as the bucket store replies."""

from ratelimit_service.decision.charge import GONE, Charge, ChargeResult, Granted, Returned


class GrantCounts:
    """Counts what replies say of grants, whoever the callers are."""

    def __init__(self) -> None:
        self.events = dict.fromkeys(("made", "repeated", "returned", "gone"), 0)
        """Replies so far, by what they say. `repeated`: the same grant or return again, which has changed nothing."""
        self.units = dict.fromkeys(("granted", "returned", "spent"), 0)
        """Units so far. `spent`: calls that holders report as allowed. Over all servers together, what was granted and
        is neither returned nor spent is held now, or its holder has never reported it."""

    def count(self, charge: Charge, result: ChargeResult) -> None:
        """Count the result of a charge that makes a grant, or returns one."""
        events, units = self.events, self.units
        match result.hold:
            case Granted(taken, held, _):
                if held:
                    events["made" if taken else "repeated"] += 1
                    units["granted"] += taken
            case Returned(returned, _, again):
                events["repeated" if again else "gone" if result.held_us == GONE else "returned"] += 1
                units["returned"] += returned
                if not again:
                    units["spent"] += sum(counts[0] for _, _, _, counts in charge.counted if counts)
