"""The wheel has all that the service needs at run time."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from release import dist
from release.versions import ROOT, version


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, and the wheel from it, as `make dist` builds them."""
    out = tmp_path_factory.mktemp("dist")
    dist.service(out)
    return out


def test_it_has_every_file_of_the_package(built: Path) -> None:
    """Scripts in Lua, templates, styles, migrations and types too; and nothing of the repository beside the package."""
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    listed = subprocess.run(
        ["git", "ls-files", "-z", "ratelimit_service"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    expected = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    assert expected - names == set()
    assert {name.partition("/")[0] for name in names} == {
        "ratelimit_service",
        f"ratelimit_service-{version()}.dist-info",
    }


def test_the_module_in_c_is_a_source_archive(tmp_path: Path) -> None:
    """With all that a compiler needs."""
    dist.crossing(tmp_path)
    (archive,) = tmp_path.iterdir()
    assert archive.name == f"ratelimit_service_crossing-{version()}.tar.gz"
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    folder = "ratelimit_service_crossing"
    files = {"_crossing.c", "_crossing.pyi", "__init__.py", "py.typed"}
    assert names >= {"pyproject.toml", "README.md"} | {f"{folder}/{name}" for name in files}
