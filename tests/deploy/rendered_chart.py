"""The Helm chart as helm renders it: for each file of values, and several versions of Kubernetes.

Not part of `make test`, since to build helm takes minutes: `make test-deploy` does, and runs this.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from deploy.files import CHART, DEPLOY, SECRETS, SETTINGS
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.server.exposure import effective, open_ports
from ratelimit_service.settings import Settings

VALUES = Path(__file__).parent / "values"
NAMES = sorted(path.stem for path in VALUES.glob("*.yaml"))
KUBERNETES = ["1.25", "1.30", "1.37"]
NAMESPACE = "gateway"
OF_OTHERS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that the Prometheus operator brings along: Kubernetes itself has no schema of them."""

IGNORED = {
    "container-image-pull-policy": "a tag that is never moved needs no registry to be there when a pod starts",
    "deployment-has-host-podantiaffinity": "pods are spread by topologySpreadConstraints",
}
"""Tests of kube-score, and why they are ignored for all values."""

IGNORED_FOR = {
    "small": {
        "pod-networkpolicy": "it is turned off there",
        "deployment-has-poddisruptionbudget": "it is turned off there",
        "deployment-replicas": "there is one on purpose",
        "pod-topology-spread-constraints": "one pod is not spread",
    }
}

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm, which has to be on the PATH."""
    assert shutil.which("helm"), "helm is not on the PATH; run make test-deploy, which installs it"
    return subprocess.run(["helm", *arguments], capture_output=True, check=False, text=True)


def render(*arguments: str | Path, kubernetes: str = KUBERNETES[-1], chart: Path = CHART) -> list[Manifest]:
    """The manifests that helm renders with these arguments."""
    options = ("--namespace", NAMESPACE, "--kube-version", kubernetes)
    done = helm("template", "limits", chart, *options, *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of a file of values."""
    return str(request.param)


@pytest.fixture
def manifests(name: str) -> list[Manifest]:
    """What it renders."""
    return render("--values", VALUES / f"{name}.yaml")


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def component(manifest: Manifest) -> str:
    """Which part of the chart a manifest or the template of a pod is."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def server(manifests: list[Manifest]) -> Manifest:
    """The Deployment of the servers."""
    (found,) = (each for each in of_kind(manifests, "Deployment") if component(each) == "server")
    return found


def servers(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The Deployments of servers, by their planes."""
    found = (each for each in of_kind(manifests, "Deployment") if component(each) in {"server", "control"})
    return {variables(each)["RATELIMIT_PLANE"]["value"]: each for each in found}


def variables(deployment: Manifest) -> dict[str, Manifest]:
    """The environment of its pods, by the names of the variables."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each for each in container["env"]}


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """The templates of all pods."""
    return (manifest["spec"]["template"] for manifest in manifests if "template" in manifest.get("spec", {}))


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector, with or without expressions, selects what has these labels."""
    wanted = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
    expressions = selector.get("matchExpressions", [])
    return wanted.items() <= labels.items() and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in expressions
    )


def test_helm_has_nothing_to_say(name: str) -> None:
    """`helm lint --strict` warns of nothing."""
    done = helm("lint", "--strict", CHART, "--values", VALUES / f"{name}.yaml")
    assert (done.returncode, re.findall("WARNING|ERROR", done.stdout)) == (0, []), done.stdout


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_kubernetes_accepts_it(name: str, kubernetes: str) -> None:
    """Each manifest fits the schema of its kind, with no field that this version does not know."""
    manifests = render("--values", VALUES / f"{name}.yaml", kubernetes=kubernetes)
    for manifest in manifests:
        if manifest["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {NAMESPACE}
    sleeps = "lifecycle" in server(manifests)["spec"]["template"]["spec"]["containers"][0]
    assert sleeps == (kubernetes != "1.25" and name != "small")


def test_the_linter_has_nothing_to_say(name: str, manifests: list[Manifest]) -> None:
    """kube-score finds nothing critical and warns of nothing, but for what is ignored, with the reason, above."""
    assert shutil.which("kube-score"), "kube-score is not on the PATH; run make test-deploy, which installs it"
    ignored = [*IGNORED, *IGNORED_FOR.get(name, {})]
    options = [option for test in ignored for option in ("--ignore-test", test)]
    done = subprocess.run(
        ["kube-score", "score", "--output-format", "ci", "--ignore-container-cpu-limit", *options, "-"],
        input=yaml.safe_dump_all(manifests),
        capture_output=True,
        check=False,
        text=True,
    )
    assert "[OK]" in done.stdout, done.stderr
    assert re.findall(r"^\[(?:CRITICAL|WARNING)\].*", done.stdout, re.MULTILINE) == []


def test_a_server_would_start(name: str, manifests: list[Manifest]) -> None:
    """The variables of its pods are valid settings, with which a server opens what the chart says, and no more."""
    assert set(servers(manifests)) == ({"decision", "control"} if name == "apart" else {"all"})
    for plane, deployment in servers(manifests).items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        found = variables(deployment)
        assert set(found) <= SETTINGS
        secret = {key: each["valueFrom"]["secretKeyRef"] for key, each in found.items() if "valueFrom" in each}
        assert set(secret) == SECRETS & set(found)
        assert {each["name"] for each in secret.values()} == {"limits"}
        texts = {variable: each.get("value", Peppers.generate()) for variable, each in found.items()}
        settings = effective(Settings(**{key.removeprefix("RATELIMIT_").lower(): text for key, text in texts.items()}))
        opened = {int(str(port).split()[0].rpartition(":")[2]) for port in open_ports(settings)}
        assert opened == {port["containerPort"] for port in container["ports"]}
        assert settings.checks_protected
        encrypted = settings.tls_certificate is not None
        assert encrypted == (name != "mesh")
        assert settings.plane == plane


def test_servers_that_decide_have_no_role_that_may_write() -> None:
    """With the planes apart, they have the URL of the role that reads, and no secret of the control plane."""
    manifests = render("--values", VALUES / "apart.yaml")
    apart = {plane: variables(deployment) for plane, deployment in servers(manifests).items()}
    of_control = {"RATELIMIT_DATABASE_URL", "RATELIMIT_ALERT_WEBHOOK_URL", "RATELIMIT_CONSOLE_HOSTS"}
    assert of_control - set(apart["control"]) == set()
    assert of_control & set(apart["decision"]) == set()
    url = apart["decision"]["RATELIMIT_DECISION_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
    assert url == {"name": "limits", "key": "decision-url"}
    assert {plane: each["spec"]["replicas"] for plane, each in servers(manifests).items()} == {
        "decision": 2,
        "control": 3,
    }


def test_a_pod_has_time_to_drain(manifests: list[Manifest]) -> None:
    """Its grace is longer than the pause before SIGTERM, the delay after it, and the longest drain together."""
    pod = server(manifests)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    drain, delay = int(values["RATELIMIT_DRAIN_TIMEOUT"]), int(values["RATELIMIT_DRAIN_DELAY"])
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] >= pause + delay + 2 * drain + 10


def test_every_pod_is_hardened(manifests: list[Manifest]) -> None:
    """No root, no capability, no privilege, a root that is read-only, no token of Kubernetes, bounded memory."""
    templates = list(pods(manifests))
    assert len(templates) >= 2
    for template in templates:
        pod = template["spec"]
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert (context["runAsUser"], context["readOnlyRootFilesystem"]) == (65532, True)
            assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
            assert "memory" in container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= {each["name"] for each in pod["volumes"]}


def test_services_lead_to_servers(name: str, manifests: list[Manifest]) -> None:
    """Each Service selects one kind of server, by names of ports that it has; one is headless, if that is wanted."""
    services = of_kind(manifests, "Service")
    for service in services:
        (chosen,) = (pod for pod in pods(manifests) if selects(service["spec"]["selector"], labels(pod)))
        ports = {port["name"]: port["containerPort"] for port in chosen["spec"]["containers"][0]["ports"]}
        of_control = component(service) == "admin" and name == "apart"
        assert component(chosen) == ("control" if of_control else "server")
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
        if service["spec"].get("clusterIP") == "None":
            assert [port["port"] for port in service["spec"]["ports"]] == [ports["grpc"]]
    assert len(services) == {"small": 2, "apart": 4}.get(name, 3)


def labels(pod: Manifest) -> dict[str, str]:
    """The labels of a pod."""
    return cast("dict[str, str]", pod["metadata"]["labels"])


def test_the_network_is_closed(name: str, manifests: list[Manifest]) -> None:
    """Each pod has one policy, of both directions, whose ports exist; who may connect is who is named."""
    policies = of_kind(manifests, "NetworkPolicy")
    assert bool(policies) == (name != "small")
    for pod in pods(manifests) if policies else ():
        (policy,) = (each for each in policies if selects(each["spec"]["podSelector"], labels(pod)))
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        opened = {port["port"]: rule["from"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        if component(pod) not in {"server", "control"}:
            assert opened == {}
            continue
        values = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]
        values |= yaml.safe_load((VALUES / f"{name}.yaml").read_text()).get("networkPolicy", {})
        named = {
            "grpc": values["gateways"],
            "grpc-admin": values["admins"],
            "operations": values["admins"] + values["prometheus"],
        }
        assert set(opened) == {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        for port, peers in opened.items():
            own = [] if port == "grpc" else peers[:1]
            assert peers[len(own) :] == named[port]
            for toolbox in own:
                chosen = [each for each in pods(manifests) if selects(toolbox["podSelector"], labels(each))]
                assert [component(each) for each in chosen] == ["toolbox"]


def test_disruptions_are_bounded(name: str, manifests: list[Manifest]) -> None:
    """Where there are several servers, a budget selects them, and a rollout never has fewer than wanted."""
    budgets = of_kind(manifests, "PodDisruptionBudget")
    for deployment in servers(manifests).values():
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        chosen = labels(deployment["spec"]["template"])
        own = [budget for budget in budgets if selects(budget["spec"]["selector"], chosen)]
        assert [budget["spec"]["maxUnavailable"] for budget in own] == [1] * (name != "small")
    assert len(budgets) == {"small": 0, "apart": 2}.get(name, 1)


def test_it_scales(name: str, manifests: list[Manifest]) -> None:
    """With autoscaling the number of servers is the autoscaler's, else it is fixed."""
    deployment, scalers = server(manifests), of_kind(manifests, "HorizontalPodAutoscaler")
    assert ("replicas" in deployment["spec"]) == (not scalers)
    assert len(scalers) == (name == "large")
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert [each["type"] for each in scaler["spec"]["metrics"]] == ["Resource", "Pods"]


def test_the_schema_is_migrated_first(name: str, manifests: list[Manifest]) -> None:
    """A Job before installs and upgrades has the owner's URL, and no other secret."""
    jobs = of_kind(manifests, "Job")
    assert len(jobs) == (name != "small")
    for job in jobs:
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        (container,) = job["spec"]["template"]["spec"]["containers"]
        owner = {"name": "limits-owner", "key": "url"} if name == "large" else {"name": "limits", "key": "database-url"}
        assert container["env"] == [{"name": "RATELIMIT_DATABASE_URL", "valueFrom": {"secretKeyRef": owner}}]


def test_prometheus_finds_it(name: str, manifests: list[Manifest]) -> None:
    """Each server is scraped once, by Services that have the port; the rules are those of deploy/prometheus."""
    monitors, rules = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "PrometheusRule")
    assert (len(monitors), len(rules)) == {"large": (1, 1), "apart": (1, 0)}.get(name, (0, 0))
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]
        services = [each for each in of_kind(manifests, "Service") if selects(wanted, labels(each))]
        (endpoint,) = monitor["spec"]["endpoints"]
        scraped = []
        for service in services:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            scraped += [component(pod) for pod in pods(manifests) if selects(service["spec"]["selector"], labels(pod))]
        assert sorted(scraped) == sorted(map(component, servers(manifests).values()))
    for rule in rules:
        assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "secret.existingSecret is not set: make a Secret with the keys"),
        (["secret.existingSecret=a"], "set tls.existingSecret, or allowPlaintext=true"),
        (["secret.existingSecret=a", "allowPlaintext=true", "drainTimeout=400"], "drainTimeout"),
        (["secret.existingSecret=a", "allowPlaintext=true", "sekret=1"], "sekret"),
        (
            ["secret.existingSecret=a", "allowPlaintext=true", "autoscaling.enabled=true", "autoscaling.cpuPercent=0"],
            "autoscaling has no metric",
        ),
        (
            ["secret.existingSecret=a", "allowPlaintext=true", "control.separate=true"],
            "control.separate is set, and secret.keys.decisionDatabaseUrl is not",
        ),
    ],
)
def test_what_could_not_work_is_refused(arguments: list[str], message: str) -> None:
    """Nothing is rendered, and the message says what to set."""
    options = ("--kube-version", KUBERNETES[-1], *(word for each in arguments for word in ("--set", each)))
    done = helm("template", "limits", CHART, *options)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


NOTES = """
apiVersion: v1
kind: ConfigMap
metadata: { name: notes, namespace: "" }
data:
  notes: {{ include "notes" . | quote }}
"""
"""Helm prints notes only with a cluster: a copy of the chart renders them as something else."""


def test_the_notes_say_what_to_do(name: str, tmp_path: Path) -> None:
    """After an installation: the first token, the servers' addresses, and what is open or closed by mistake."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "notes.yaml").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}{NOTES}')
    manifests = render("--values", VALUES / f"{name}.yaml", chart=chart)
    (notes,) = (each["data"]["notes"] for each in manifests if each["metadata"]["name"] == "notes")
    assert "ratelimit-service admin-tokens create ops --role admin" in notes
    assert ("sent in plain text" in notes) == (name == "mesh")
    assert ("-headless." in notes) == (name != "small")
    assert "  RATELIMIT_ADMIN_SERVER=" + ("" if name == "mesh" else "https://") + "localhost:50052 " in notes
    rollouts = re.findall(r"rollout status deployment/(\S+)\n", notes)
    assert {each["metadata"]["name"] for each in servers(manifests).values()} <= set(rollouts)
    services = {service["metadata"]["name"] for service in of_kind(manifests, "Service")}
    assert {f"service/{each}" in notes for each in services if each.endswith("-admin")} == {True}


def test_the_readme_works() -> None:
    """Each `helm template` and `helm lint` in the chart's README does what it says, in the root of the repository."""
    text = (CHART / "README.md").read_text()
    commands = re.findall(r"^helm (?:lint|template) .*$", text, re.MULTILINE)
    assert commands
    for command in commands:
        done = subprocess.run(["sh", "-c", command], cwd=CHART.parents[2], capture_output=True, check=False, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
