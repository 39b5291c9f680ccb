"""When certificates end, as their files say."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ratelimit_service.server.certificate_ends import certificate_ends, first_ends


def made(folder: Path, days: int) -> str:
    """A certificate that is good for so many DAYS, as PEM."""
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    rest = ("-days", str(days), "-subj", "/CN=a", "-keyout", str(folder / "key"))
    return subprocess.run([*command, *rest], check=True, capture_output=True, text=True).stdout


def test_each_certificate_of_a_file_is_read(tmp_path: Path) -> None:
    """In their order, whichever way the time is written: with two digits of the year, or from 2050 on with four."""
    chain = tmp_path / "chain.pem"
    days = (2, 36_500)
    chain.write_text("What stands between is ignored.\n".join(made(tmp_path, each) for each in days))
    now = datetime.now(UTC)
    found = certificate_ends(chain)
    assert [end.tzinfo for end in found] == [UTC, UTC]
    for end, each in zip(found, days, strict=True):
        assert abs(end - now - timedelta(days=each)) < timedelta(minutes=1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file without certificates has none; one that is cut off, or not there, is an error."""
    file = tmp_path / "cut.pem"
    file.write_text("")
    assert certificate_ends(file) == []
    lines = made(tmp_path, 2).splitlines()
    file.write_text("\n".join([*lines[:2], lines[-1]]))
    with pytest.raises(ValueError, match="ends in the middle of a field"):
        certificate_ends(file)
    with pytest.raises(FileNotFoundError):
        certificate_ends(tmp_path / "absent.pem")


def test_a_file_is_good_until_its_first_certificate_ends(tmp_path: Path) -> None:
    """As the metric shows it; a file that cannot be read, or has no certificate, has no such time."""
    files = {name: tmp_path / name for name in ("chain", "empty", "absent")}
    files["chain"].write_text("".join(made(tmp_path, days) for days in (30, 2)))
    files["empty"].write_text("")
    found = first_ends(files)
    assert found.keys() == {"chain"}
    assert abs(found["chain"] - (datetime.now(UTC) + timedelta(days=2)).timestamp()) < 60
