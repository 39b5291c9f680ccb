"""Commands find the admin methods where they have an address of their own."""

import json
from pathlib import Path

import pytest

from fixtures.dev_server import DevServer, free_address
from ratelimit_service.cli.target import Target
from ratelimit_service.devstores.state import DevState


def test_commands_find_the_admin_port_of_dev(own_dev_server: DevServer) -> None:
    """They call it by dev.json, `check` the gRPC port; given an address, they call that one, and report where it is."""
    admin = free_address()
    own_dev_server.environment["RATELIMIT_ADMIN_LISTEN"] = admin
    own_dev_server.start()
    assert own_dev_server.state["admin_listen"] == admin
    assert f"\nopen: {admin} plain text: admin methods for tokens\n" in own_dev_server.output
    key, token = own_dev_server.state["api_key"], own_dev_server.state["admin_token"]
    assert own_dev_server.run("check", key).returncode == 0
    assert own_dev_server.run("explain", key).returncode == 0
    assert json.loads(own_dev_server.run("plans", "list", "--json").stdout)["plans"]

    there = {"RATELIMIT_SERVER": own_dev_server.listen, "RATELIMIT_ADMIN_SERVER": admin, "RATELIMIT_TOKEN": token}
    assert own_dev_server.run("check", key, **there).returncode == 0
    assert own_dev_server.run("plans", "list", **there).returncode == 0
    wrong = own_dev_server.run("plans", "list", "--server", own_dev_server.listen, **there)
    assert wrong.returncode == 3
    assert "call it at the server's RATELIMIT_ADMIN_LISTEN" in wrong.stderr
    assert f"(UNIMPLEMENTED NOT_SERVED, from {own_dev_server.listen})" in wrong.stderr


def test_the_address_of_dev_is_that_of_its_admin_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless decisions are wanted, or the admin methods have none of their own, as in files of earlier versions."""
    monkeypatch.setenv("RATELIMIT_DATA_DIR", str(tmp_path))
    state = DevState("127.0.0.1:1", "rlk_key", "rlt_token", "postgresql://", "redis://", "127.0.0.1:2")
    state.write(tmp_path)
    assert Target.choose(None, None).address == "127.0.0.1:2"
    assert Target.choose(None, None, decides=True).address == "127.0.0.1:1"
    file = tmp_path / "dev.json"
    old = json.loads(file.read_text())
    del old["admin_listen"]
    file.write_text(json.dumps(old))
    assert Target.choose(None, None).address == "127.0.0.1:1"
