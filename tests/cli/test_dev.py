"""`ratelimit-service dev`: starts, stops, and what it keeps."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from fixtures.dev_server import PROGRAM, DevServer
from ratelimit_service.cli.dev import _command
from ratelimit_service.cli.environment import load_settings


def test_what_a_start_keeps_and_what_it_replaces(own_dev_server: DevServer) -> None:
    """After SIGKILL, SIGTERM or SIGINT the next start has all that was there, but for a demo key or token revoked.

    What a kill leaves behind is taken over; a stop leaves no process, and exits with 0.
    """
    own_dev_server.start()
    first = own_dev_server.state
    assert own_dev_server.stop(signal.SIGKILL) == -signal.SIGKILL

    own_dev_server.start()
    second = own_dev_server.state
    assert (second["api_key"], second["admin_token"]) == (first["api_key"], first["admin_token"])
    made = own_dev_server.run(
        "plans", "create", "-", stdin="{name: own, limits: [{name: q, quota: {amount: 9, window: YEAR}}]}"
    )
    assert made.returncode == 0, made.stderr
    created = json.loads(own_dev_server.run("keys", "create", "--plan", "own", "--subject", "s", "--json").stdout)
    assert own_dev_server.run("check", created["secret"], "--cost", "4").returncode == 0
    assert own_dev_server.run("keys", "revoke", first["api_key"].split("_")[2]).returncode == 0
    assert own_dev_server.run("admin-tokens", "revoke", "dev").returncode == 0
    assert own_dev_server.stop() == 0
    folder = str(own_dev_server.data_dir)
    commands = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    assert [command for command in commands if folder in command] == []

    own_dev_server.start()
    third = own_dev_server.state
    assert third["api_key"] != first["api_key"]
    assert third["admin_token"] != first["admin_token"]
    assert own_dev_server.run("check", third["api_key"]).returncode == 0
    left = json.loads(own_dev_server.run("check", created["secret"], "--json").stdout)
    assert (left["allowed"], left["remaining"]) == (True, "4")
    keys = json.loads(own_dev_server.run("keys", "list", "--json").stdout)["keys"]
    assert [(key["subject"], key["state"]) for key in keys if key["subject"] != "demo"] == [("s", "ACTIVE")]
    assert own_dev_server.stop(signal.SIGINT) == 0


def test_prints_what_to_do_next(dev_server: DevServer) -> None:
    """When it is ready it prints the key, which transport it uses and why, and commands that can be pasted."""
    key = dev_server.state["api_key"]
    output = dev_server.output
    assert f"ratelimit-service serves on {dev_server.listen}. Transport " in output
    assert f"\n  {key}\n" in output
    assert f'grpcurl -plaintext -d \'{{"api_key":"{key}","resource":"orders.create"}}\' {dev_server.listen} ' in output
    assert f"ratelimit-service check {key} --resource orders.create" in output
    assert dev_server.state["admin_token"] not in output
    started, _, after = output.partition("ratelimit-service serves on")
    assert "] serves " in started
    assert "] serves " not in after, "what to paste next is the last that one sees"


def test_demo(dev_server: DevServer) -> None:
    """Every call that it sends is drawn, with what refused some of them, and it names the console."""
    done = dev_server.run("demo", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    total = re.search(r"^allowed (\d+), refused (\d+)$", done.stdout, re.MULTILINE)
    assert total is not None
    drawn = "".join(re.findall(r"^ +[0-9.]+ s  ([+.]+)", done.stdout, re.MULTILINE))
    assert (drawn.count("+"), drawn.count(".")) == (int(total[1]), int(total[2]))
    assert len(drawn) == 44
    assert re.search(r"OVER_LIMIT by \w+, again in ", done.stdout)
    assert dev_server.state["console"] in done.stdout
    denied = dev_server.run("demo", "--seconds", "2", "rlk_live_made_up")
    assert (denied.returncode, "allowed 0, refused 44" in denied.stdout) == (0, True)


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_port_0_is_any_free_port(transport: str, own_dev_server: DevServer) -> None:
    """With port 0, the output, dev.json and the commands that read it name the port that was taken.

    A database that is set for other commands gets no demo key: dev reports that it uses its own.
    """
    own_dev_server.environment |= {
        "RATELIMIT_DATABASE_URL": "postgresql://user@127.0.0.1:1/production",
        "RATELIMIT_TRANSPORT": transport,
        "RATELIMIT_LISTEN": "127.0.0.1:0",
        "RATELIMIT_OPERATIONS_LISTEN": "127.0.0.1:0",
        "RATELIMIT_HTTP_LISTEN": "127.0.0.1:0",
    }
    own_dev_server.start()
    assert "RATELIMIT_DATABASE_URL is set but ignored: dev uses its own" in own_dev_server.output
    listen = own_dev_server.state["listen"]
    assert listen != "127.0.0.1:0"
    assert f"ratelimit-service serves on {listen}. Transport {transport}: " in own_dev_server.output
    assert own_dev_server.run("check", own_dev_server.state["api_key"]).returncode == 0
    metrics = re.search(r"metrics on (http://\S+)/metrics;", own_dev_server.output)
    assert metrics is not None
    with urllib.request.urlopen(f"{metrics[1]}/metrics", timeout=10) as response:
        assert b"ratelimit_decisions_total" in response.read()
    curl = re.search(r"^  curl .*$", own_dev_server.output, re.MULTILINE)
    assert curl is not None
    done = subprocess.run(["sh", "-c", curl[0]], capture_output=True, check=True, timeout=20)
    assert json.loads(done.stdout)["allowed"] is True


def test_only_the_owner_may_read_secrets(dev_server: DevServer) -> None:
    """Only the owner may read the file of the peppers, and dev.json, which has what scripts need."""
    for name in ("dev.json", "peppers"):
        assert stat.S_IMODE((dev_server.data_dir / name).stat().st_mode) == 0o600
    assert {"listen", "api_key", "admin_token"} <= dev_server.state.keys()
    assert dev_server.state["listen"] == dev_server.listen


def test_a_second_dev_on_the_folder_is_refused(dev_server: DevServer) -> None:
    """While one runs on a folder, a second one fails with the first one's process id, and the first keeps running."""
    second = dev_server.run("dev", RATELIMIT_LISTEN="127.0.0.1:0")
    assert second.returncode == 2
    assert f"already runs on {dev_server.data_dir} (process " in second.stderr
    assert dev_server.run("check", "--cost", "0", RATELIMIT_API_KEY=dev_server.state["api_key"]).returncode == 0


@pytest.mark.parametrize("setting", ["RATELIMIT_LISTEN", "RATELIMIT_OPERATIONS_LISTEN", "RATELIMIT_HTTP_LISTEN"])
def test_a_taken_port_is_refused_before_anything_starts(setting: str, own_dev_server: DevServer) -> None:
    """A port that another process holds is reported with its setting in one line, and no store is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = own_dev_server.run("dev", **{setting: address})
    assert refused.returncode == 4
    assert refused.stderr == (
        f"cannot listen on {address}: Address already in use; stop the process that holds the port, or set {setting} "
        "to another one\n"
    )
    assert not own_dev_server.data_dir.exists()


def test_what_is_open_beyond_loopback_is_refused_before_anything_starts(own_dev_server: DevServer) -> None:
    """Plain text and anonymous callers are a line each, with what to set instead, and no store is started."""
    refused = own_dev_server.run("dev", RATELIMIT_LISTEN="0.0.0.0:0", RATELIMIT_PROTECT_CHECKS="false")
    assert refused.returncode == 4
    plaintext, anonymous = refused.stderr.splitlines()
    assert plaintext.startswith("RATELIMIT_LISTEN is 0.0.0.0:0, which is beyond loopback: tokens and keys are sent to")
    assert "RATELIMIT_ALLOW_PLAINTEXT=true" in plaintext
    assert anonymous.startswith("RATELIMIT_LISTEN is 0.0.0.0:0, which is beyond loopback: everyone who can connect may")
    assert "RATELIMIT_ALLOW_ANONYMOUS=true" in anonymous
    assert not own_dev_server.data_dir.exists()


def test_beyond_loopback_a_decision_needs_a_token(own_dev_server: DevServer) -> None:
    """Where plain text is allowed, dev says what is open and how to call it: with a token of role gateway."""
    port = own_dev_server.listen.rpartition(":")[2]
    own_dev_server.environment |= {"RATELIMIT_LISTEN": f"0.0.0.0:{port}", "RATELIMIT_ALLOW_PLAINTEXT": "true"}
    own_dev_server.start()
    assert f"\nopen: 0.0.0.0:{port} plain text: decisions for gateways; admin methods for" in own_dev_server.output
    assert "admin-tokens create NAME --role gateway\n" in own_dev_server.output
    assert "-H 'authorization: Bearer TOKEN' -d" in own_dev_server.output
    key = own_dev_server.state["api_key"]
    refused = own_dev_server.run("check", key)
    assert (refused.returncode, "ROLE_INSUFFICIENT" in refused.stderr) == (3, True)
    token = json.loads(own_dev_server.run("admin-tokens", "create", "gw", "--role", "gateway", "--json").stdout)[
        "token"
    ]
    assert own_dev_server.run("check", key, "--token", token).returncode == 0


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"RATELIMIT_WORKERS": "0"}, 2, "RATELIMIT_WORKERS is '0': input should be greater than or equal to 1"),
        ({"RATELIMIT_LISTEN": "nonsense"}, 4, "'nonsense' is not an address; write host:port"),
        ({"RATELIMIT_DATA_DIR": "/dev/null/x"}, 2, "cannot use /dev/null/x: Not a directory; choose another folder"),
    ],
)
def test_invalid_settings_are_reported(
    own_dev_server: DevServer, settings: dict[str, str], code: int, message: str
) -> None:
    """An invalid setting is reported with its value, without a traceback."""
    done = own_dev_server.run("dev", **settings)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_wheels_it_reports_what_to_install(tmp_path: Path) -> None:
    """If the extra is not installed, dev names it, and starts nothing."""
    script = "import sys; sys.modules['psutil'] = None; from ratelimit_service.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "dev", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "dev needs psutil, which is not installed; pip install 'ratelimit-service[embedded]'" in done.stderr


def test_the_command_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is short: the name alone of what is on PATH, as pipx installs it, and a path below the folder otherwise."""
    program = tmp_path / "a folder" / "ratelimit-service"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    settings = load_settings(listen="127.0.0.1:0")
    assert _command(settings) == f"'{program}'"
    monkeypatch.chdir(tmp_path)
    assert _command(settings) == "'a folder/ratelimit-service'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert _command(settings) == "ratelimit-service"
    assert _command(load_settings(data_dir=Path("/x y"))) == "RATELIMIT_DATA_DIR='/x y' ratelimit-service"


def test_the_program_is_installed() -> None:
    """The command is installed and executable."""
    assert os.access(PROGRAM, os.X_OK)
