"""`ratelimit-service enforcement ...` from end to end, against a real dev server."""

import json

from fixtures.dev_server import DevServer


def test_it_is_turned_off_and_on(dev_server: DevServer) -> None:
    """Off takes a time of at most a day, status says until when, on ends it, and all is audited."""
    assert "on, of every server" in dev_server.run("enforcement", "status").stdout
    assert dev_server.run("enforcement", "off").returncode == 2
    for duration, message in (("25h", "turn_off.duration: is 90000s"), ("0s", "is 0s"), ("soon", "--for: 'soon'")):
        refused = dev_server.run("enforcement", "off", "--for", duration)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
    done = dev_server.run("enforcement", "off", "--for", "30m", "--comment", "drill")
    assert (done.returncode, "OFF, of every server" in done.stdout) == (0, True), done.stderr
    status = json.loads(dev_server.run("enforcement", "status", "--json").stdout)
    assert (status["off"], status["comment"], status["actor"]) == (True, "drill", "dev")
    assert dev_server.run("enforcement", "on").returncode == 0
    assert json.loads(dev_server.run("enforcement", "status", "--json").stdout)["off"] is False
    events = json.loads(dev_server.run("audit", "list", "--target", "enforcement", "--json").stdout)["events"]
    assert [event["action"] for event in events[:2]] == ["enforcement.on", "enforcement.off"]


def test_only_admins_turn_it(dev_server: DevServer) -> None:
    """A viewer may read the switch, and not turn it."""
    token = json.loads(dev_server.run("admin-tokens", "create", "switch-viewer", "--role", "viewer", "--json").stdout)
    as_viewer = ("--token", token["token"])
    assert dev_server.run("enforcement", "status", *as_viewer).returncode == 0
    for arguments in (("off", "--for", "1m"), ("on",)):
        refused = dev_server.run("enforcement", *arguments, *as_viewer)
        assert (refused.returncode, "ROLE_INSUFFICIENT" in refused.stderr) == (3, True)


def test_a_socket_that_nobody_serves(dev_server: DevServer) -> None:
    """Without a server behind it, a socket is named in the error."""
    failed = dev_server.run("enforcement", "status", "--local", "--socket", "/tmp/none/enforcement.sock")
    assert (failed.returncode, "no server answers at /tmp/none" in failed.stderr) == (4, True)
