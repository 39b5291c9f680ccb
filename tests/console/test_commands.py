"""The commands that pages show: each is one that the command line and the API have."""

import html
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from console.browser import Browser
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.cli.app import app

OPTION_DOMAIN = """
domain: --server=x.example:1
descriptors:
  - key: a
    limits: [{quota: {amount: 9, window: DAY}}]
"""
"""Rules of a domain whose name begins like an option, by which a command would send its token elsewhere."""

FILES = {"plan.yaml": "name: free", "rules.yaml": "domain: a"}

FILTERED = (
    "/audit?actor=a&action=key.create&target=plans/x",
    "/audit?target=plans/",
    "/keys?q=acme&plan=free&state=ACTIVE&used=never",
    "/keys?q=team%3Da",
)

OPTION_PAGE = "/rules/domain?name=--server%3Dx.example%3A1"


def shown(page: str, box: str) -> list[str]:
    """The commands of a box, without comments."""
    found = re.search(rf'<pre id="{box}"[^>]*>(.*?)</pre>', page, re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", "", found[1])) if found else ""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line for line in lines.replace("\\\n", " ").splitlines() if line.strip()]


def check_cli(line: str) -> None:
    """Parse a command as the command line would, without running it."""
    program, *words = shlex.split(line)
    assert program == "ratelimit-service"
    command = typer.main.get_command(app)
    context = command.make_context(program, list(words), resilient_parsing=True)
    while hasattr(command, "get_command"):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, line
    with command.make_context(name, words, parent=context) as made:
        for value in made.params.values():
            if hasattr(value, "close"):
                value.close()


def check_grpcurl(line: str) -> None:
    """Parse the message of a call as the API would."""
    words = shlex.split(line)
    method = words[-1].removeprefix("ratelimit.v1.KeyAdminService/")
    service = admin_pb2.DESCRIPTOR.services_by_name["KeyAdminService"]
    message = GetMessageClass(service.methods_by_name[method].input_type)()
    ParseDict(json.loads(words[words.index("-d") + 1]), message)


def test_every_command_exists(admin: Browser, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the boxes "Same by CLI / grpcurl" can be pasted, with names of any kind in it."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    form = {"plan": "free", "subject": 'it\'s; rm -rf "$HOME" `x`', "expires": "never"}
    admin.submit("/keys/new", **form, once=admin.once("/keys/new"))
    server.key("free")
    admin.submit("/rules/edit", document=OPTION_DOMAIN, do="save")
    seen: set[str] = set()
    for path, answer in [*admin.walk(), *((path, admin.get(path)) for path in (*FILTERED, OPTION_PAGE))]:
        for line in shown(answer.text, "sh-cli"):
            check_cli(line)
            seen.add(" ".join(shlex.split(line)[1:3]))
        for line in shown(answer.text, "sh-grpc"):
            assert line.startswith("grpcurl -plaintext -H")
            check_grpcurl(line)
        if path.startswith("/rules/domain?name=--server"):
            assert "ratelimit-service rules get -- --server=x.example:1" in shown(answer.text, "sh-cli")
    assert {"keys get", "keys list", "plans simulate", "overrides set", "audit list", "rules get"} <= seen
