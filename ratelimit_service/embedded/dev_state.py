"""What `dev` leaves for scripts and for the command line: `<data dir>/dev.json`."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

_FILE = "dev.json"


@dataclass(frozen=True, slots=True)
class DevState:
    """Where a development server listens and what opens it. Kept when it stops, for its next start."""

    listen: str
    api_key: str = field(repr=False)
    admin_token: str = field(repr=False)
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)

    @classmethod
    def read(cls, data_dir: Path) -> "DevState | None":
        """What was written last, None if nothing was. Raises ValueError for a file that is not as it was written."""
        path = data_dir / _FILE
        try:
            written = json.loads(path.read_text())
            return cls(**{each.name: str(written[each.name]) for each in fields(cls)})
        except FileNotFoundError:
            return None
        except PermissionError:
            raise ValueError(f"{path} belongs to another user; name the server with --server") from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged; remove it, and `ratelimit-service dev` writes a new one") from None

    def write(self, data_dir: Path) -> None:
        """Replace what was written, so that no reader ever sees half a file. Only the owner may read it."""
        path = data_dir / _FILE
        new = path.with_suffix(f".{os.getpid()}.new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(asdict(self), indent=2) + "\n")
        new.replace(path)
