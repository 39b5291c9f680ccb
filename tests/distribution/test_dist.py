"""What `make dist` says where it cannot build something, and which programs it finds."""

import sys
from pathlib import Path

import pytest

from release import dist


def test_a_toolchain_of_the_virtual_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """clients/install-toolchains puts Node.js there, where a shell does not find it."""
    (tmp_path / "made-up").write_text("#!/bin/sh\n")
    (tmp_path / "made-up").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    made: list[Path] = []
    dist.with_toolchain("made-up", made.append, tmp_path)
    assert made == [tmp_path]


def test_a_toolchain_that_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its package is left out with a line that says so, and in CI there is no release without it."""
    monkeypatch.delenv("CI", raising=False)
    dist.with_toolchain("made-up", dist.java_client, Path("/nowhere"))
    assert capsys.readouterr().err == "left out, because made-up is missing: java client\n"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(dist.NotBuilt, match=r"made-up is missing, .* run clients/install-toolchains"):
        dist.with_toolchain("made-up", dist.java_client, Path("/nowhere"))


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line, no traceback."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(dist.NotBuilt, match="git is missing; install it"):
        dist.check()


def test_outside_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sources by themselves have no commit, by which a release is named and dated."""
    monkeypatch.setattr(dist, "ROOT", tmp_path)
    with pytest.raises(dist.NotBuilt, match=r"built from a git checkout, and .* is none"):
        dist.sources(tmp_path, "protos", "protos")
