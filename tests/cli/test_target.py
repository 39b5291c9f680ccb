"""Which server a command calls, and which token it sends."""

from pathlib import Path

import pytest

from ratelimit_service.cli.client import DEFAULT_SERVER, Target
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.devstores.state import DevState


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DevState:
    """The state that `dev` keeps in the data folder."""
    monkeypatch.setenv("RATELIMIT_DATA_DIR", str(tmp_path))
    state = DevState("0.0.0.0:5005", "rlk_key", "rlt_token", "postgresql://", "redis://")
    state.write(tmp_path)
    return state


def test_uses_the_dev_server_by_default(dev: DevState) -> None:
    """By default the server that `dev` started is called, with its token, at an address that can be dialled."""
    target = Target.choose(None, None)
    assert (target.address, target.token) == ("127.0.0.1:5005", dev.admin_token)


def test_sends_the_dev_token_to_no_other_server(dev: DevState) -> None:
    """A given server gets the given token and no other."""
    assert Target.choose("example.com:1", None).token == ""
    assert Target.choose("example.com:1", "rlt_other").token == "rlt_other"
    assert dev.admin_token not in repr(Target.choose(None, None))


@pytest.mark.usefixtures("dev")
def test_a_given_token_is_sent_to_the_dev_server() -> None:
    """A given token takes precedence over the one that `dev` created."""
    assert Target.choose(None, "rlt_given").token == "rlt_given"


def test_without_dev_the_default_port_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If `dev` never ran, the default address is called without a token."""
    monkeypatch.setenv("RATELIMIT_DATA_DIR", str(tmp_path))
    assert Target.choose(None, None) == Target(DEFAULT_SERVER)


def test_https_means_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https address is called by TLS, any other scheme is refused, and so is a missing CA file."""
    assert Target.choose("https://example.com:443", None).credentials is not None
    with pytest.raises(CommandError):
        Target.choose("http://example.com:80", None)
    monkeypatch.setenv("RATELIMIT_SERVER_CA", str(tmp_path / "none.pem"))
    with pytest.raises(CommandError) as error:
        Target.choose("https://example.com:443", None)
    assert "none.pem" in error.value.lines[0]


def test_a_damaged_file_is_reported(dev: DevState, tmp_path: Path) -> None:
    """A damaged dev.json is reported, with what to do."""
    assert DevState.read(tmp_path) == dev
    (tmp_path / "dev.json").write_text('{"listen": "127.0.0.1:1"}')
    with pytest.raises(CommandError) as error:
        Target.choose(None, None)
    assert "dev.json is damaged; remove it" in error.value.lines[0]


def test_only_the_owner_may_read_the_dev_state(dev: DevState, tmp_path: Path) -> None:
    """The file with the secrets is readable only by its owner, and no temporary file stays beside it."""
    assert (tmp_path / "dev.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["dev.json"]
    assert dev.api_key not in repr(dev)
