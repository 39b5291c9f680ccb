"""The commands of the examples for language models, pasted one after the other beside a server."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from api.envoy.front import FrontEnvoy, Json
from api.envoy.language_model import LanguageModel
from api.envoy.shell import Shell, blocks
from api.envoy.test_examples import LISTEN
from fixtures.served import Server


class Pasted:
    """A checkout beside a server, and the Envoy of an example."""

    def __init__(self, shell: Shell, model: LanguageModel, start: Callable[[Json], FrontEnvoy]) -> None:
        self._shell, self._model, self._start = shell, model, start

    def call(self, example: str, setup: str, calls: str) -> str:
        """Set an example up, start its Envoy, and return what the calls print."""
        key = self._shell.run(setup + 'echo "$KEY"\n').splitlines()[-1]
        envoy = self._start(self._shell.configuration(example, self._model.port))
        return self._shell.run(f"KEY={key}\n{calls}".replace(f":{LISTEN}/", f":{envoy.port}/"))


@pytest.fixture
def shell(
    proxy_server: Callable[[str], Server],
    model: LanguageModel,
    start_front: Callable[[Json], FrontEnvoy],
    tmp_path: Path,
) -> Pasted:
    """A shell beside a server."""
    return Pasted(Shell(tmp_path, proxy_server("grpcio")), model, start_front)


def test_a_budget_is_set_up_and_ends_and_is_raised(shell: Pasted) -> None:
    """Each call is answered as the README says, and every command works."""
    setup, spend, go_on = blocks("llm")
    printed = shell.call("llm", setup, f"{spend}\n{go_on}")
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200", "200", "429", "200"]
    (wait,) = re.findall(r"^retry-after: (\d+)", printed, re.MULTILINE)
    assert 0 < int(wait) <= 86_400
    assert f"limit tokens, {1_000_000 - 45 - 1_000_005:,} left" in printed


def test_an_estimate_is_reserved_and_settled(shell: Pasted) -> None:
    """The call is answered, and what is left is what its answer cost less."""
    setup, call = blocks("llm_reserved")
    printed = shell.call("llm_reserved", setup, call)
    assert re.findall(r"^HTTP/1\.1 (\d+)", printed, re.MULTILINE) == ["200"]
    assert f"{1_000_000 - 5 - 4 * 10:,}" in printed
