"""Which server a command calls, and which token it sends: to this machine, or by TLS, and to nobody else."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service.cli.client import Client
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.target import DEFAULT_SERVER, Target
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
    assert Target.choose("https://example.com:1", None).token == ""
    assert Target.choose("https://example.com:1", "rlt_other").token == "rlt_other"
    assert Target.choose("127.0.0.1:1", None).token == ""
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


def refusal(server: str | None = None, token: str | None = None) -> str:
    """What a command says before it sends anything."""
    with pytest.raises(CommandError) as caught:
        Target.choose(server, token)
    return "\n".join(caught.value.lines)


OTHERS = [
    *("203.0.113.9:443", "example.com:50051", "localhost.evil.example:1", "0.0.0.0:1", "[2001:db8::1]:1", "10.0.0.1:1"),
    *("dns:example.com:1", "dns:///example.com:1", "unix:/tmp/x", "ipv4:203.0.113.9:1", "127.0.0.1@example.com:1"),
    *("http://127.0.0.1:1", "https://u:p@h:1", "https://h:1/path", "https://h:99999", "localhost", ":1"),
]
"""Addresses of other hosts, and those that merely resemble this one."""


@pytest.mark.usefixtures("dev")
@pytest.mark.parametrize("server", OTHERS)
def test_no_token_leaves_the_machine_in_plain_text(server: str) -> None:
    """Another host is called by TLS, or in plain text only if the address says so; the error says how."""
    message = refusal(server, "rlt_real_secret")
    assert "https://HOST:PORT" in message
    assert "plaintext://HOST:PORT to send tokens and keys unencrypted" in message
    assert "rlt_real_secret" not in message


@pytest.mark.parametrize("server", ["localhost:1", "LOCALHOST:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"])
def test_this_machine_is_called_in_plain_text(server: str) -> None:
    """Loopback addresses get the token without TLS."""
    target = Target.choose(server, "rlt_t")
    assert (target.address, target.token, target.credentials) == (server, "rlt_t", None)


def test_plain_text_is_named_as_such() -> None:
    """A server in a network that is trusted is called without TLS by an address that says so."""
    target = Target.choose("plaintext://10.0.0.1:50051", "rlt_t")
    assert (target.address, target.token, target.credentials) == ("10.0.0.1:50051", "rlt_t", None)


@pytest.mark.parametrize("listen", ["203.0.113.9:443", "https://x.example:443", "plaintext://203.0.113.9:80"])
def test_the_address_in_dev_json_is_trusted_no_further(dev: DevState, tmp_path: Path, listen: str) -> None:
    """A file that names another host, by whatever scheme, gets no token sent there, not even the one that is given."""
    replace(dev, listen=listen).write(tmp_path)
    assert "dev.json names, is not on this machine" in refusal()
    assert "dev.json names, is not on this machine" in refusal(token="rlt_real")


@pytest.mark.usefixtures("dev")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "message"),
    [
        (0o644, 0o700, "dev.json, mode 0644: chmod 600 "),
        (0o620, 0o700, "dev.json, mode 0620: chmod 600 "),
        (0o600, 0o770, "its files are not trusted: chmod go-w "),
        (0o600, 0o1777, "its files are not trusted: chmod go-w "),
    ],
)
def test_what_others_can_write_is_not_trusted(tmp_path: Path, file_mode: int, folder_mode: int, message: str) -> None:
    """A dev.json that others can read or write, or replace in its folder, is an error that says what to do."""
    (tmp_path / "dev.json").chmod(file_mode)
    tmp_path.chmod(folder_mode)
    assert message in refusal()
    assert message in refusal(token="rlt_real")
    assert Target.choose("localhost:1", "rlt_real").address == "localhost:1"  # a server that is named needs no file


@pytest.mark.usefixtures("dev")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["dev.json", "."])
def test_what_another_user_wrote_is_not_trusted(tmp_path: Path, given: str) -> None:
    """A dev.json of another user, or in a folder of another user, is an error."""
    os.chown(tmp_path / given, 65_534, 65_534)
    assert "belongs to another user" in refusal(token="rlt_real")


def test_links_and_pipes_are_not_followed(dev: DevState, tmp_path: Path) -> None:
    """A dev.json that is a link, a folder or a pipe is an error at once; a folder that is a link is followed."""
    path = tmp_path / "dev.json"
    path.rename(tmp_path / "other.json")
    path.symlink_to("other.json")
    assert "is a link" in refusal()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is not a regular file" in refusal()
    path.unlink()
    path.mkdir(0o700)
    assert "is not a regular file" in refusal()
    path.rmdir()
    (tmp_path / "other.json").rename(path)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert DevState.read(tmp_path / "link") == dev


@pytest.mark.usefixtures("dev")
@pytest.mark.parametrize("content", ["[" * 60_000, "9" * 5_000, json.dumps({"listen": "x" * 70_000}), "[]", "\0"])
def test_any_content_is_reported(tmp_path: Path, content: str) -> None:
    """Whatever is in the file ends in an error that says what to do."""
    (tmp_path / "dev.json").write_text(content)
    assert "remove it" in refusal()


@pytest.mark.parametrize("token", ["rlt_a\nx: y", "rlt_ä", "rlt_a b", "x" * 5_000, " "])
def test_a_malformed_token_is_not_repeated(token: str) -> None:
    """A text that can be no token is refused by name; nothing prints it."""
    message = refusal("localhost:1", token)
    assert message.startswith("--token or RATELIMIT_TOKEN: is no token")
    assert token.strip() == "" or token not in message


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    """`@FILE` keeps a token off the command line, which other users can see."""
    (tmp_path / "token").write_text("rlt_of_file\n")
    assert Target.choose("localhost:1", f"@{tmp_path}/token").token == "rlt_of_file"
    assert "cannot read the token from " in refusal("localhost:1", f"@{tmp_path}/none")


def test_no_proxy_sees_a_token_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call in plain text goes to its server and to no proxy that the environment names."""
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
        unused.close()
        proxy.settimeout(0.1)
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with Client(Target.choose(f"127.0.0.1:{port}", "rlt_t"), timeout=5) as client, pytest.raises(CommandError):
            client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id="0" * 16)))
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize(
    ("host", "advice"), [("127.0.0.1", "ratelimit-service dev`"), ("0.0.0.0", "doctor --server HOST:9464`")]
)
def test_a_server_that_does_not_answer(host: str, advice: str) -> None:
    """One on this machine is to be started; one elsewhere, here by an address of this one, is to be examined."""
    with socket.create_server((host, 0)) as unused:
        port = unused.getsockname()[1]
    with (
        Client(Target.choose(f"plaintext://{host}:{port}", None), timeout=5) as client,
        pytest.raises(CommandError, match=f"cannot reach a server at {host}:{port}: ") as caught,
    ):
        client.manage_key(ManageKeyRequest(get=ManageKeyRequest.GetKey(key_id="0" * 16)))
    assert advice in caught.value.lines[1]
