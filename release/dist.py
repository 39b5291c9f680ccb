"""Build what a release consists of: `python -m release.dist FOLDER`, or `make dist`, which builds the site before.

The service: a source archive, and the wheel from what is in it; the sources of the module in C. The clients: a wheel,
and the packages of npm, Maven and Go, of the languages whose toolchain is here or in the virtual environment (all of
them, with CI=true); for others the protos. The site as an archive. What an installation of the wheel consists of, as a
CycloneDX document. SHA256SUMS of all, and requirements.lock beside them. Files get the time of the last commit, so that
the same commit gives the same wheels.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from release.changelog import has_release, problems
from release.versions import ROOT, named, version

_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--quiet")
_SDIST: Final = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
_EXTRAS: Final = "console,envoy,otel"
"""What an installation in production has, as deploy/ installs it. The SBOM is of this."""


class NotBuilt(Exception):
    """A part cannot be built. The message states why, and what to do."""


def build(out: Path) -> None:
    """Build everything into OUT, which is emptied before. Raises NotBuilt."""
    check()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    service(out)
    crossing(out)
    python_client(out)
    for tool, make in {"npm": typescript_client, "mvn": java_client}.items():
        with_toolchain(tool, make, out)
    for name, folder in {"client-go": "clients/go", "protos": "protos"}.items():
        sources(out, name, folder)
    site(out)
    bill_of_materials(out)
    shutil.copy(ROOT / "requirements.lock", out)
    (out / "SHA256SUMS").write_text(sums(out), encoding="utf-8")


def check() -> None:
    """Raise NotBuilt unless all places name one version and the changelog has its form; report what is no release."""
    differing = [file for file, names in named().items() if names != {version()}]
    if differing:
        raise NotBuilt(f"{', '.join(differing)} name another version than {version()}; run make version")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    wrong = problems(changelog, version())
    if wrong:
        raise NotBuilt(f"CHANGELOG.md: {'; '.join(wrong)}")
    if not has_release(changelog, version()):
        _say(f"CHANGELOG.md has no section [{version()}] yet: what is built is for trials, and no release")
    if _run("git", "status", "--porcelain", capture=True):
        _say("there are changes that are not committed: what is built is for trials, and no release")


def service(out: Path) -> None:
    """The source archive, and the wheel from what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        source = _copy(ROOT, Path(folder), ("pyproject.toml", "README.md", "LICENSE", "ratelimit_service"))
        _run(sys.executable, "-c", _SDIST, str(out), cwd=source, capture=True)  # a line for each file
    _wheel(out / f"ratelimit_service-{version()}.tar.gz", out)


def crossing(out: Path) -> None:
    """The source archive of the module in C: a wheel of it is for one version of Python on one kind of machine."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("pyproject.toml", "README.md", "ratelimit_service_crossing")
        source = _copy(ROOT / "crossing", Path(folder), names)
        _run(sys.executable, "-c", _SDIST, str(out), cwd=source, capture=True)


def python_client(out: Path) -> None:
    """The wheel of the Python client."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("pyproject.toml", "README.md", "LICENSE", "src")
        _wheel(_copy(ROOT / "clients" / "python", Path(folder), names), out)


def typescript_client(out: Path) -> None:
    """The package for npm."""
    client = ROOT / "clients" / "typescript"
    _run("npm", "ci", "--silent", cwd=client)
    _run("npm", "pack", "--silent", "--pack-destination", str(out), cwd=client)


def java_client(out: Path) -> None:
    """The jars for Maven, of classes, sources and documentation, with the file that names what they need."""
    client = ROOT / "clients" / "java"
    _run("mvn", "--batch-mode", "--quiet", "package", "-DskipTests", cwd=client)
    name = f"ratelimit-service-client-{version()}"
    for jar in (client / "target").glob(f"{name}*.jar"):
        shutil.copy(jar, out)
    shutil.copy(client / "pom.xml", out / f"{name}.pom")


def sources(out: Path, name: str, folder: str) -> None:
    """A folder of the last commit as it is: the module of Go, which Go builds itself, and the protos."""
    archive = f"ratelimit-service-{name}-{version()}"
    _run("git", "archive", f"--prefix={archive}/", f"--output={out / archive}.zip", f"HEAD:{folder}")


def site(out: Path) -> None:
    """The site of the documentation, which `make docs` has built."""
    built = ROOT / "site"
    if not (built / "index.html").exists():
        raise NotBuilt("there is no site/; run make docs")
    name = f"ratelimit-service-docs-{version()}"
    with tarfile.open(out / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(built, arcname=name)


def bill_of_materials(out: Path) -> None:
    """What an installation of the wheel consists of, with the versions of requirements.lock: CycloneDX, in JSON."""
    (wheel,) = out.glob(f"ratelimit_service-{version()}-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, symlinks=True, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        lock = str(ROOT / "requirements.lock")
        _run(python, *_PIP, "install", "--only-binary", ":all:", "-c", lock, f"{wheel}[{_EXTRAS}]")
        _run(python, *_PIP, "uninstall", "--yes", "pip", "setuptools")
        document = out / f"ratelimit-service-{version()}.cdx.json"
        options = ["--output-reproducible", "--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(document)]
        _run(sys.executable, "-m", "cyclonedx_py", "environment", *options, python)


def sums(out: Path) -> str:
    """A line for each file in OUT, as sha256sum reads it."""
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(out.iterdir()))


def with_toolchain(tool: str, make: Callable[[Path], None], out: Path) -> None:
    """MAKE a package whose toolchain is here. One that is missing is reported, and with CI=true an error."""
    if shutil.which(tool, path=_environment()["PATH"]) is not None:
        make(out)
    elif os.environ.get("CI") == "true":
        raise NotBuilt(f"{tool} is missing, and CI leaves no package out; run clients/install-toolchains")
    else:
        _say(f"left out, because {tool} is missing: {make.__name__.replace('_', ' ')}")


def _wheel(source: Path, out: Path) -> None:
    _run(sys.executable, *_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))


def _copy(source: Path, folder: Path, names: Sequence[str]) -> Path:
    """What a package is built from, without what a build leaves beside it."""
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source / name, folder / name)
    return folder


def _run(*command: str, cwd: Path = ROOT, capture: bool = False) -> str:
    """Run a command, and return what it prints if that is captured. Raises NotBuilt if it fails."""
    environment, output = _environment(), subprocess.PIPE if capture else None
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise NotBuilt(f"{command[0]} is missing; install it")
    done = subprocess.run([program, *command[1:]], cwd=cwd, env=environment, check=False, text=True, stdout=output)
    if done.returncode != 0:
        raise NotBuilt(f"{' '.join(command[:6])} failed in {cwd}: see above")
    return (done.stdout or "").strip()


def _environment() -> Mapping[str, str]:
    """The environment of builds: the time of the last commit in place of that of the build.

    The virtual environment's programs come first: clients/install-toolchains puts what is missing there. Raises
    NotBuilt where there is no git checkout.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    git = shutil.which("git", path=path)
    if git is None:
        raise NotBuilt("git is missing; install it")
    done = subprocess.run([git, "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise NotBuilt(f"a release is built from a git checkout, and {ROOT} is none: {done.stderr.strip()}")
    return {"SOURCE_DATE_EPOCH": done.stdout.strip(), **os.environ, "PATH": path}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist").resolve()
    try:
        build(folder)
    except NotBuilt as error:
        sys.exit(str(error))
    _say(f"built {version()} into {folder}:")
    _say("\n".join(f"  {file.stat().st_size / 1_000_000:8.2f} MB  {file.name}" for file in sorted(folder.iterdir())))
