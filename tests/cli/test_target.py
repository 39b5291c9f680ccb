"""Which server a command asks, and what it shows there."""

from pathlib import Path

import pytest

from ratelimit_service.cli.client import DEFAULT_SERVER, Target
from ratelimit_service.cli.fault import Fault
from ratelimit_service.devstores.state import DevState


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DevState:
    """What `dev` left in the data folder."""
    monkeypatch.setenv("RATELIMIT_DATA_DIR", str(tmp_path))
    state = DevState("0.0.0.0:5005", "rlk_key", "rlt_token", "postgresql://", "redis://")
    state.write(tmp_path)
    return state


def test_takes_what_dev_left(dev: DevState) -> None:
    """When nothing is named, the server that `dev` started is asked, with its token, at an address one can call."""
    target = Target.choose(None, None)
    assert (target.address, target.token) == ("127.0.0.1:5005", dev.admin_token)


def test_shows_the_dev_token_to_no_other_server(dev: DevState) -> None:
    """A server that is named gets the token that is named and no other."""
    assert Target.choose("example.com:1", None).token == ""
    assert Target.choose("example.com:1", "rlt_other").token == "rlt_other"
    assert dev.admin_token not in repr(Target.choose(None, None))


@pytest.mark.usefixtures("dev")
def test_a_token_of_ones_own_goes_to_the_dev_server() -> None:
    """A token that is named goes before the one that `dev` made."""
    assert Target.choose(None, "rlt_mine").token == "rlt_mine"


def test_without_dev_the_default_port_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was ever started, the default address is asked without a token."""
    monkeypatch.setenv("RATELIMIT_DATA_DIR", str(tmp_path))
    assert Target.choose(None, None) == Target(DEFAULT_SERVER)


def test_https_means_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https address is called by TLS, any other scheme is refused, and so is a CA file that is not there."""
    assert Target.choose("https://example.com:443", None).credentials is not None
    with pytest.raises(Fault):
        Target.choose("http://example.com:80", None)
    monkeypatch.setenv("RATELIMIT_SERVER_CA", str(tmp_path / "none.pem"))
    with pytest.raises(Fault) as fault:
        Target.choose("https://example.com:443", None)
    assert "none.pem" in fault.value.lines[0]


def test_a_damaged_file_is_told_in_words(dev: DevState, tmp_path: Path) -> None:
    """A dev.json that is not as it was written is named, with what to do."""
    assert DevState.read(tmp_path) == dev
    (tmp_path / "dev.json").write_text('{"listen": "127.0.0.1:1"}')
    with pytest.raises(Fault) as fault:
        Target.choose(None, None)
    assert "dev.json is damaged; remove it" in fault.value.lines[0]


def test_only_the_owner_may_read_what_dev_leaves(dev: DevState, tmp_path: Path) -> None:
    """The file with the secrets is readable by its owner alone, and nothing half-written stays beside it."""
    assert (tmp_path / "dev.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["dev.json"]
    assert dev.api_key not in repr(dev)
