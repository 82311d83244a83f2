"""The CloudFormation stack: it is valid, and its roles meet the accounts and folders of the manifests."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.deployments.conftest import DEPLOYMENTS, Objects, find, of_kind, tool

STACK = DEPLOYMENTS / "aws" / "stack.yaml"


class _Loader(yaml.SafeLoader):
    """CloudFormation's short forms as plain text: `!Sub x` is x."""


def _short_form(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("!", _short_form)


@pytest.fixture
def resources() -> dict[str, Any]:
    """The stack's resources by their names."""
    return dict(yaml.load(STACK.read_text(), Loader=_Loader)["Resources"])


def _of_type(resources: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item["Properties"] for item in resources.values() if item["Type"] == kind]


def test_the_stack_is_valid() -> None:
    done = subprocess.run([tool("cfn-lint"), str(STACK)], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


def test_each_service_account_has_its_role(resources: dict[str, Any], render: Callable[[str], Objects]) -> None:
    accounts = {item["metadata"]["name"] for item in of_kind(render("minimal"), "ServiceAccount")}
    associations = _of_type(resources, "AWS::EKS::PodIdentityAssociation")

    assert {item["ServiceAccount"] for item in associations} == accounts
    assert {item["Namespace"] for item in associations} == {"fine-tune"}
    assert len({item["RoleArn"] for item in associations}) == len(accounts)


def test_each_image_has_a_repository_that_keeps_its_tags(resources: dict[str, Any]) -> None:
    repositories = _of_type(resources, "AWS::ECR::Repository")

    assert {item["RepositoryName"] for item in repositories} == {
        path.stem for path in (DEPLOYMENTS / "docker").glob("*.Dockerfile")
    }
    assert {item["ImageTagMutability"] for item in repositories} == {"IMMUTABLE"}


def test_roles_reach_the_folders_that_settings_and_values_name(
    resources: dict[str, Any], render: Callable[[str], Objects]
) -> None:
    statements = resources["StepsPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    written = {item["Resource"] for item in statements if "s3:PutObject" in item["Action"]}
    settings = find(render("eks"), "ConfigMap", "fine-tune-settings")["data"]
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "dagster.yaml").read_text())
    logs = values["computeLogManager"]["config"]["s3ComputeLogManager"]["prefix"]

    assert settings["FINE_TUNE_STORE"] == "s3://example-bucket/artifacts"
    assert settings["FINE_TUNE_RAW"].startswith("s3://example-bucket/")
    assert written == {"${Bucket.Arn}/artifacts/*", f"${{Bucket.Arn}}/{logs}/*"}


def test_nobody_may_delete_datasets_or_touch_another_bucket(resources: dict[str, Any]) -> None:
    text = STACK.read_text()

    assert "Resource: '*'" not in text
    assert 'Resource: "*"' not in text
    statements = resources["StepsPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    deleting = [item["Resource"] for item in statements if "s3:DeleteObject" in item["Action"]]
    assert deleting == ["${Bucket.Arn}/artifacts/*"]
    assert resources["Bucket"]["DeletionPolicy"] == "Retain"
