"""The size of a Llama, against what Llama 3.1 8B is published to have."""

from typing import Any

import pytest

from neuron_ops.errors import InvalidInput
from neuron_ops.models.config import read_shape
from neuron_ops.models.shape import Linear
from tests.neuron_ops.planning.llama import LLAMA_8B, LLAMA_8B_CONFIG


def test_llama_3_1_8b_has_its_published_number_of_parameters() -> None:
    assert LLAMA_8B.parameters() == 8_030_261_248


def test_eight_ranks_share_layers_and_embeddings_but_not_norms() -> None:
    # (2 x 16,777,216 + 2 x 4,194,304 + 3 x 58,720,256) / 8 + 2 x 4,096 for a layer, 32 of them,
    # 2 x 128,256 x 4,096 / 8 for the embeddings and 4,096 for the last norm.
    assert LLAMA_8B.parameters(8) == 32 * 27_271_168 + 131_334_144 + 4_096 == 1_004_015_616


def test_more_ranks_than_key_value_heads_hold_copies_of_them() -> None:
    linears = LLAMA_8B.linears(32)

    assert linears["q_proj"] == Linear(4096, 128)
    assert linears["k_proj"] == linears["v_proj"] == Linear(4096, 128), "one whole head on each of 32 ranks"
    # (2 x 16,777,216 + 3 x 58,720,256) / 32 + 2 x 4,096 x 128 + 2 x 4,096 for a layer.
    assert LLAMA_8B.parameters(32) == 32 * 7_610_368 + 2 * 4_008 * 4_096 + 4_096


def test_tied_embeddings_count_once() -> None:
    tied = read_shape({**LLAMA_8B_CONFIG, "tie_word_embeddings": True}, "config.json")

    assert LLAMA_8B.parameters() - tied.parameters() == 128_256 * 4_096


def test_the_input_embedding_is_looked_up_not_multiplied() -> None:
    assert LLAMA_8B.multiplied_parameters() == 8_030_261_248 - 128_256 * 4_096 - 65 * 4_096


def test_a_config_without_grouped_heads_has_one_key_head_for_each_query_head() -> None:
    config = {name: value for name, value in LLAMA_8B_CONFIG.items() if name != "num_key_value_heads"}

    assert read_shape(config, "config.json").kv_heads == 32


@pytest.mark.parametrize("value", [None, "4096", 0, -1, True, 4096.0])
def test_a_config_without_a_usable_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"base/config\.json: hidden_size is .* whole number"):
        read_shape({**LLAMA_8B_CONFIG, "hidden_size": value}, "base/config.json")
