"""The objects of operators are what these operators take, as far as a schema says it.

Karpenter's and External Secrets' types come from npm (`make tools`). Kueue's are in no package index: a cluster tells,
by `kubectl apply --dry-run=server`. These validators let unknown fields pass, so the names of fields are compared with
what the types declare: that finds a misspelled one.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.conftest import DEPLOYMENTS, Objects, kustomize

MODELS = Path(sys.executable).parents[1] / "custom-resources" / "node_modules" / "@kubernetes-models"
PACKAGES = {"karpenter.sh": "karpenter", "karpenter.k8s.aws": "karpenter", "external-secrets.io": "external-secrets"}

# Reads objects from stdin and writes what is wrong with each.
PROGRAM = """
import { readFileSync } from "node:fs"
const problems = []
for (const { file, object } of JSON.parse(readFileSync(0))) {
  const kinds = await import(file)
  try { new kinds[object.kind](object).validate(); problems.push("") } catch (error) { problems.push(error.message) }
}
console.log(JSON.stringify(problems))
"""


@pytest.fixture(scope="module")
def custom() -> Objects:
    """Every object of these operators in the overlay that has them all."""
    node = shutil.which("node")
    if node is None or not MODELS.is_dir():
        pytest.skip("NO NODE.JS OR NO npm: custom resources were not validated; install them and run `make tools`")
    objects = kustomize(DEPLOYMENTS / "kubernetes" / "overlays" / "eks")
    return [item for item in objects if item["apiVersion"].partition("/")[0] in PACKAGES]


def problems(objects: Objects) -> list[str]:
    """What the operators' types say against each object; nothing where it is valid."""
    asked = [{"file": str(_folder(item) / f"{item['kind']}.js"), "object": item} for item in objects]
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", PROGRAM], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [str(problem) for problem in json.loads(done.stdout)]


def _folder(item: dict[str, Any]) -> Path:
    return MODELS / PACKAGES[item["apiVersion"].partition("/")[0]] / str(item["apiVersion"])


def test_every_custom_resource_is_valid(custom: Objects) -> None:
    assert {item["kind"] for item in custom} == {"NodePool", "EC2NodeClass", "SecretStore", "ExternalSecret"}
    assert problems(custom) == [""] * len(custom)


def test_the_validators_do_refuse(custom: Objects) -> None:
    assert all(problems([{**item, "spec": "wrong"} for item in custom]))


def test_every_field_of_a_custom_resource_is_one_that_its_operator_has(custom: Objects) -> None:
    taint = _declared(MODELS.parent / "kubernetes-models" / "v1", "Taint.d.ts")

    unknown = {item["kind"]: set(_fields(item["spec"])) - taint - _declared(_folder(item), "*.d.ts") for item in custom}

    assert unknown == {item["kind"]: set() for item in custom}


def _declared(folder: Path, files: str) -> set[str]:
    """Every field that the types in these files have."""
    return {name for path in folder.glob(files) for name in re.findall(r'"(\w+)"\??:', path.read_text())}


# Below these, keys are names of the cluster's own making.
FREE = ("labels", "annotations", "tags", "limits")


def _fields(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _fields(item)
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            if name not in FREE:
                yield from _fields(item)
