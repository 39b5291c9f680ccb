"""Every command and snippet of the documentation is run by a test, and every command that it mentions exists."""

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest
import yaml

from docs.generate.cli import Command, commands
from docs.generate.links import ROOT, pages
from fixtures.pages import Checkout, blocks, fenced
from ratelimit_service.settings import Settings

IN_A_SHELL: Final = [
    "docs/tutorial.md",
    "docs/keys-and-plans.md",
    "docs/configuration.md",
    "docs/descriptor-rules.md",
    "docs/usage.md",
    "docs/enforcement.md",
]
"""Pages whose `sh` blocks are run here, one page after the other, beside a server."""

JAVA: Final = "clients/java/src/test/java/io/github/ratelimitservice/client/e2e/ServiceIT.java"
LANGUAGE_MODELS: Final = ("llm", "llm_reserved")
ENVOY: Final = ("", "ext_authz/", "ext_authz_rls/", "llm/", "llm_reserved/", "rlqs/", "rls/")
EXAMPLES: Final = "tests/api/envoy/test_examples.py"
RUN_BY: Final = {
    ("README.md", ""): "tests/test_readme.py",
    ("README.md", "sh"): "tests/test_readme.py",
    ("README.md", "python"): "tests/test_readme.py",
    **{(page, "sh"): "tests/documentation/test_snippets.py" for page in IN_A_SHELL},
    ("docs/install.md", "sh"): "tests/distribution/installed_wheel.py",
    ("docs/tutorial.md", ""): "tests/test_readme.py",
    ("docs/tutorial.md", "yaml"): "tests/documentation/test_snippets.py",
    ("docs/configuration.md", "yaml"): "tests/documentation/test_snippets.py",
    ("docs/metrics.md", "yaml"): "tests/test_monitoring_documents.py",
    ("docs/tracing.md", "json"): "tests/server/test_tracing.py",
    ("docs/http.md", ""): "tests/cli/test_dev.py",
    ("docs/http.md", "sh"): "tests/transport/connect/test_calls.py",
    ("docs/http.md", "json"): "tests/transport/connect/test_calls.py",
    ("docs/runbook.md", "sh"): "tests/server/test_monitoring.py",
    ("docs/production.md", "yaml"): "tests/documentation/test_snippets.py",
    ("docs/token-budgets.md", "yaml"): "tests/documentation/test_snippets.py",
    ("docs/token-budgets.md", "python"): "tests/documentation/test_snippets.py",
    **{(f"deploy/envoy/{name}/README.md", "sh"): "tests/api/envoy/test_llm_readme.py" for name in LANGUAGE_MODELS},
    ("docs/alerts.md", "python"): "tests/alerts/test_dispatch.py",
    ("docs/alerts.md", "json"): "tests/alerts/test_dispatch.py",
    ("clients/README.md", "python"): "tests/clients/test_python_end_to_end.py",
    ("clients/README.md", "go"): "tests/clients/test_clients_readme.py",
    ("clients/README.md", "ts"): "tests/clients/test_clients_readme.py",
    ("clients/README.md", "java"): "tests/clients/test_clients_readme.py",
    ("clients/python/README.md", "python"): "tests/clients/test_python_end_to_end.py",
    ("clients/go/README.md", "go"): "clients/go/e2e/readme_test.go",
    ("clients/typescript/README.md", "ts"): "clients/typescript/test/service.test.ts",
    ("clients/java/README.md", "java"): JAVA,
    ("clients/java/README.md", "xml"): "tests/clients/test_clients_readme.py",
    ("deploy/container/README.md", "sh"): "tests/deploy/image.py",
    ("deploy/helm/ratelimit-service/README.md", "sh"): "tests/deploy/rendered_chart.py",
    ("docs/migrate-from-envoyproxy-ratelimit.md", "sh"): "tests/cli/test_rules.py",
    ("docs/migrate-from-envoyproxy-ratelimit.md", "yaml"): "tests/api/envoy/test_shadow.py",
    ("docs/guides/backup.md", "sh"): "tests/test_guides.py",
    ("docs/guides/capacity.md", "sh"): "tests/test_capacity.py",
    ("docs/guides/capacity.md", ""): "tests/test_capacity.py",
    ("docs/guides/from-limitador.md", "sh"): "tests/test_guides.py",
    ("docs/guides/from-redis-scripts.md", "sh"): "tests/test_guides.py",
    ("docs/guides/from-redis-scripts.md", ""): "tests/test_guides.py",
    ("docs/guides/upgrade.md", "yaml"): "tests/faults/test_upgrade.py",
    **{(f"deploy/envoy/{name}README.md", ""): EXAMPLES for name in ENVOY},
    **{(f"deploy/envoy/{name}README.md", "sh"): EXAMPLES for name in ENVOY if "llm" not in name},
    ("deploy/envoy/rlqs/README.md", "sh"): "tests/api/envoy/test_rlqs.py",
    **{("deploy/envoy/module/README.md", language): "tests/api/envoy/test_module.py" for language in ("", "sh")},
}
"""Which test runs the blocks of a language on a page."""

NOT_RUN: Final = {
    ("deploy/compose/README.md", "sh"): "needs Docker; make-secrets and the file itself are run by tests/deploy",
    ("deploy/systemd/README.md", "sh"): "needs root and systemd as first process; the units are run by tests/deploy",
    ("deploy/envoy/README.md", "yaml"): "a part of the configurations beside it, with a made-up token",
    ("deploy/helm/ratelimit-service/README.md", "yaml"): "values for metrics that a cluster has to offer",
    ("deploy/envoy-gateway/README.md", ""): "needs a cluster; what is applied is checked by tests/deploy",
    ("deploy/istio/README.md", ""): "needs a cluster; what is applied is checked by tests/deploy",
    ("docs/configuration.md", ""): "two environments, with addresses and tokens of their own",
    ("docs/doctor.md", "sh"): "servers on several machines; tests/cli/test_doctor.py runs both on one",
    ("docs/guides/regions.md", ""): "servers of two regions",
    ("docs/guides/upgrade.md", ""): "needs the version before; tests/faults/test_two_versions.py goes by the page",
    ("docs/migrate-from-envoyproxy-ratelimit.md", ""): "examples of what the import prints",
    ("docs/planes.md", "sh"): "servers on several machines; tests/server/test_planes.py starts them on one",
    ("docs/tracing.md", "yaml"): "for a collector; tests/server/test_tracing.py has its own receiver",
    ("docs/tracing.md", ""): "needs that collector",
    ("docs/token-budgets.md", ""): "for the YAML before it as a file, which is run",
}
"""Blocks that cannot be run here, each with the reason."""


def test_every_block_is_run_by_a_test() -> None:
    """A page with a new kind of block needs a test of it; the generated pages and examples of messages are compared."""
    compared = ("docs/reference/", "docs/errors/")
    kinds = {(page, language) for page in pages() if not page.startswith(compared) for language, _ in fenced(page)}
    assert kinds - RUN_BY.keys() - NOT_RUN.keys() == set()
    assert (RUN_BY.keys() | NOT_RUN.keys()) - kinds == set()
    assert {test for test in RUN_BY.values() if not (ROOT / test).is_file()} == set()


@pytest.mark.parametrize("page", IN_A_SHELL)
def test_the_commands_of_a_page_work(page: str, checkout: Checkout) -> None:
    """All shell blocks of the page, pasted into one shell in order beside `make run`, succeed."""
    script = "".join(blocks(page, "sh"))
    done = checkout.run("sh", "-eux", stdin=script)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    if page == "docs/tutorial.md":
        assert done.stdout.count("allowed: WITHIN_LIMIT") >= 3
        assert "denied: OVER_LIMIT" in done.stdout
    if page == "docs/keys-and-plans.md":
        assert re.search(r'"secret": *"rlk_live_', done.stdout)


def test_the_plans_of_pages_are_valid(checkout: Checkout) -> None:
    """The tutorial's is the file beside it; that for language models can be tried, and denies what it should."""
    (tutorial,) = blocks("docs/tutorial.md", "yaml")
    assert tutorial == (ROOT / "docs/tutorial/plan.yaml").read_text()
    (plan,) = blocks("docs/token-budgets.md", "yaml")
    command = [".venv/bin/ratelimit-service", "plans", "test", "-", "--resource", "large-1", "--cost", "60000"]
    assert checkout.run(*command, stdin=plan).returncode == 0
    denied = checkout.run(*command, "--calls", "2", stdin=plan)
    assert denied.returncode == 1
    assert "large-model" in denied.stdout


def test_the_settings_of_pages_exist() -> None:
    """The YAML for an orchestrator can be read, and names settings of the service."""
    first, second = (yaml.safe_load(block) for block in blocks("docs/production.md", "yaml"))
    names = {f"RATELIMIT_{name.upper()}" for name in Settings.model_fields}
    assert {variable["name"] for variable in first["env"] + second["env"]} <= names
    paths = {second[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert paths == {"/healthz", "/readyz"}


def test_the_pipeline_works(checkout: Checkout) -> None:
    """Its two steps, in order: what differs is no failure, and what is applied differs no more."""
    (block,) = blocks("docs/configuration.md", "yaml")
    (checkout.folder / "limits").symlink_to(ROOT / "docs" / "limits")
    script = yaml.safe_load(block)["limits"]["script"]
    steps = [step.replace("ratelimit-service", ".venv/bin/ratelimit-service", 1) for step in script]
    assert len(steps) == 2
    for step in [*steps, ".venv/bin/ratelimit-service diff -f limits/"]:
        done = checkout.run("sh", "-eu", stdin=step)
        assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"


GATEWAY: Final = """
import json
from types import SimpleNamespace
from ratelimit_client import RateLimitClient

api_key = json.load(open(".ratelimit/dev.json"))["api_key"]
model, prompt, prompt_tokens, max_tokens = "small", "hello", 1, 2

def upstream(prompt, max_tokens):
    return SimpleNamespace(usage=SimpleNamespace(prompt_tokens=1, completion_tokens=1))

def too_many_requests(retry_after):
    raise AssertionError(retry_after)

def serve(client):
LINES
    return answer

with RateLimitClient("localhost:50051", fail_open=False) as client:
    print(serve(client).usage, call_failures := client.failures)
    assert (call_failures.open, call_failures.closed, call_failures.unsettled) == (0, 0, 0)
"""


def test_a_gateway_that_reserves_works(checkout: Checkout) -> None:
    """The Python of docs/token-budgets.md, as the body of a gateway's function: reserved and settled."""
    (lines,) = blocks("docs/token-budgets.md", "python")
    program = GATEWAY.replace("LINES", "".join(f"    {line}\n" for line in lines.splitlines()))
    done = checkout.run(sys.executable, "-c", program, PYTHONPATH=str(ROOT / "clients/python/src"))
    assert done.returncode == 0, done.stderr
    assert "completion_tokens=1" in done.stdout


@cache
def known_commands() -> dict[str, Command]:
    """All commands by name. To import them takes a second."""
    return {command.name: command for command in commands()}


_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PROGRAM: Final = re.compile(r"(?:^|[\s/(\"])ratelimit-service[ ]+([^#|;&>)]*)")


def mentioned(page: str) -> Iterator[str]:
    """The commands of ours that a page mentions, in code in its text and in its blocks, without the program."""
    text = (ROOT / page).read_text()
    yield from (span for span in _SPAN.findall(text) if " " in span and span.partition(" ")[0] in known_commands())
    for code in [*_SPAN.findall(text), *(line for _, block in fenced(page) for line in block.splitlines())]:
        yield from (words.strip().removeprefix("ratelimit-service ") for words in _PROGRAM.findall(code))


def unknown(words: list[str]) -> list[str]:
    """What does not exist of a command line: its name, or options."""
    name, known = words[0], known_commands()
    if name not in known:
        return [] if name.startswith("-") or name.isupper() else [name]
    rest = words[1:]
    if known[name].is_group and rest and not rest[0].startswith("-"):
        name, rest = f"{name} {rest[0]}", rest[1:]
        if name not in known:
            return [name]
    allowed = options(known[name])
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in allowed]


def options(command: Command) -> set[str]:
    """The names of a command's options."""
    params = command.parsed.get_params(command.context)
    return {name for param in params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}


def test_every_command_that_is_mentioned_exists() -> None:
    """In any page, with the options that it is mentioned with, whether or not it can be run there."""
    seen = [(page, words) for page in pages() if page != "CHANGELOG.md" for words in mentioned(page)]
    wrong = [(page, words, missing) for page, words in seen if words and (missing := unknown(split(words)))]
    assert wrong == []
    assert len(seen) > 100


def split(words: str) -> list[str]:
    """The words of a command line, of which a page may show a part."""
    try:
        return shlex.split(words)
    except ValueError:
        return words.split()
