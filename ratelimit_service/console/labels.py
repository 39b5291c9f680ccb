"""Labels as forms have them: `team=checkout, region=eu`."""

from collections.abc import Mapping

from ratelimit_service.errors import InvalidArgument


def parse_labels(text: str, field: str = "labels") -> dict[str, str]:
    """Read labels, separated by commas. Raises InvalidArgument (FIELD) for one without `=` or that occurs twice."""
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgument.of(field, f"has {part[:64]!r} without a value; write name=value, separated by commas")
        if name.strip() in labels:
            raise InvalidArgument.of(field, f"has {name.strip()[:64]!r} twice; a key has one value of each")
        labels[name.strip()] = value.strip()
    return labels


def write_labels(labels: Mapping[str, str]) -> str:
    """Write labels as `parse_labels` reads them."""
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
