"""The one reader of config.json: what it takes, what it refuses, and that a family is one file and one line."""

import json
from pathlib import Path

import pytest

from neuron_ops import registry
from neuron_ops.errors import CorruptArtifact, InvalidInput, OpsError
from neuron_ops.models.config import family_of, parse_config, read_config, read_shape, refuse_other_targets
from neuron_ops.models.family import ModelFamily
from neuron_ops.recipe.file import load_recipe
from tests.neuron_ops.planning.llama import LLAMA_8B, LLAMA_8B_CONFIG

FUSED = "FusedForCausalLM"


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The line of a family of its own, and what its config.json says."""
    monkeypatch.setitem(registry.MODEL_FAMILIES, FUSED, "tests.neuron_ops.models.fused_family")
    return {**LLAMA_8B_CONFIG, "architectures": [FUSED]}


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"{", CorruptArtifact, "is not JSON"),
        (b"\xff{}", CorruptArtifact, "is not JSON"),
        (b"[" * 100_000, CorruptArtifact, "is not JSON"),
        (b"[]", CorruptArtifact, "must be a JSON object, but is a list"),
        (None, InvalidInput, "has no config.json"),
        (b"{}", InvalidInput, "architectures is None, but only these are supported: LlamaForCausalLM"),
        (b'{"architectures": "LlamaForCausalLM"}', InvalidInput, "architectures is 'LlamaForCausalLM'"),
        (b'{"architectures": []}', InvalidInput, r"architectures is \[\]"),
        (b'{"architectures": ["LlamaForCausalLM", "X"]}', InvalidInput, "only these are supported"),
        (b'{"architectures": ["MambaForCausalLM"]}', InvalidInput, r"architectures is \['MambaForCausalLM'\]"),
    ],
)
def test_what_is_not_a_supported_config_is_named_with_its_folder(
    data: bytes | None, error: type[OpsError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=rf"^some/model.*{says}"):
        parse_config(data, "some/model")

    if data is not None:
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(error, match=says):
        read_config(tmp_path)


def test_a_registered_family_reads_its_own_config(fused: dict[str, object]) -> None:
    config = parse_config(json.dumps(fused).encode(), "model")

    assert family_of(config).linears == ("qkv_proj", "o_proj")
    assert read_shape(config, "model/config.json") == LLAMA_8B


def test_an_adapter_may_target_the_layers_of_its_models_family_only(fused: dict[str, object]) -> None:
    recipe = load_recipe("tiny_llama_cpu", {"graph.lora.target_modules": ["qkv_proj", "o_proj"]})
    targets = recipe.graph.lora.target_modules

    refuse_other_targets(fused, targets)
    with pytest.raises(InvalidInput, match=r"target_modules names qkv_proj, but LlamaForCausalLM has only q_proj"):
        refuse_other_targets(LLAMA_8B_CONFIG, targets)


def test_another_architecture_is_refused_with_all_that_are_registered(fused: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=rf"only these are supported: LlamaForCausalLM, {FUSED}\."):
        parse_config(b'{"architectures": ["MambaForCausalLM"]}', "model")


@pytest.mark.parametrize("architecture", registry.MODEL_FAMILIES)
def test_every_line_of_the_registry_leads_to_a_family(architecture: str) -> None:
    family = family_of({"architectures": [architecture]})

    assert isinstance(family, ModelFamily)
    assert set(family.linears) == set(family.read_shape(LLAMA_8B_CONFIG, "config.json").linears())
