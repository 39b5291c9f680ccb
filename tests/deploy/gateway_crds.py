"""The resources for Envoy Gateway and Istio fit the definitions of their kinds (CustomResourceDefinition).

Not part of `make test`, since it needs those definitions, of the version that is to be used, in a folder:

    RATELIMIT_CRDS=/path/to/folder .venv/bin/pytest tests/deploy/gateway_crds.py

They are in Envoy Gateway's chart gateway-crds-helm, which has those of the Gateway API, too, and in the file
kubernetes/customresourcedefinitions.gen.yaml of istio/api.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from deploy.test_gateways import NAMES, documents

FOLDER = Path(os.environ["RATELIMIT_CRDS"])
Json = dict[str, Any]


@pytest.fixture(scope="module")
def schemas() -> dict[tuple[str, str], Json]:
    """The schema of each kind, by its apiVersion and kind, in which a field that is not described is a mistake."""
    found = {}
    for path in FOLDER.rglob("*.yaml"):
        for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
            if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
                continue
            for version in document["spec"]["versions"]:
                name = f"{document['spec']['group']}/{version['name']}"
                schema = closed(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
                found[name, document["spec"]["names"]["kind"]] = schema
    return found


def closed(schema: Any) -> Any:  # noqa: ANN401 whatever YAML holds
    """The schema with fields that it does not describe forbidden, as by `kubectl apply --validate=strict`."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: closed(each) for name, each in schema.items()}
    described = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if described and not schema.get("x-kubernetes-preserve-unknown-fields"):
        changed.setdefault("additionalProperties", False)
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_each_resource_fits(name: str, schemas: dict[tuple[str, str], Json]) -> None:
    """Every field is one of the kind's, with a value that it takes."""
    for document in documents(name):
        schema = schemas[document["apiVersion"], document["kind"]]
        errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]
        assert errors == [], document["kind"]
