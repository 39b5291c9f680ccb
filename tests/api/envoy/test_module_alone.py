"""The module of deploy/envoy/module without Envoy and the service, under sanitizers: what a whole Envoy cannot show."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE / "alone" / "cases.c"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover")
OPTIONS = ("-g", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Werror", *SANITIZERS)
CASES = re.findall(r'^ *\{"(\w+)", \w+\},$', SOURCE.read_text(), re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the module is not built here")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases, each by its name as the only argument."""
    path = tmp_path_factory.mktemp("module") / "alone"
    module = HERE.parents[2] / "deploy" / "envoy" / "module"
    subprocess.run(["cc", *OPTIONS, f"-I{module}", "-o", path, SOURCE], check=True)
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_module_alone(case: str, program: Path) -> None:
    """What is wrong is printed."""
    subprocess.run([program, case], check=True, timeout=60)
