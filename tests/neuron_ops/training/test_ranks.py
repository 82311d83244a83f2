"""What ranks tell one another: the same word on every rank, and no rank left waiting for one that failed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neuron_ops.training.workbench import Ended, Trainer, make_lineage, make_model, make_recipe, start_server

pytestmark = pytest.mark.slow

PROBES = "tests.neuron_ops.training.rank_probes"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = start_server(tmp_path_factory.mktemp("ranks"))
    yield trainer
    trainer.close()


def found(folder: Path, ended: Ended) -> list[Any]:
    assert set(ended.codes) == {0}, ended.log
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(ended.codes))]


def test_every_rank_gets_the_first_one_s_words(trainer: Trainer, tmp_path: Path) -> None:
    ended = trainer.request([str(tmp_path)], ranks=3, call=f"{PROBES}:share_words")

    assert found(tmp_path, ended) == [["decided by 0", "é" * 5000, ""]] * 3


def test_when_the_first_rank_fails_the_others_end_with_its_status_in_silence(trainer: Trainer) -> None:
    ended = trainer.request([], ranks=3, call=f"{PROBES}:fail_on_the_first")

    assert ended.codes[1:] == [2, 2]
    assert ended.codes[0] != 0
    assert ended.log.count("the first rank refuses") == 2, "once in the first rank's own source line, once as its error"
    assert "went on" not in ended.log


def test_ranks_without_a_common_folder_save_and_restore_one_checkpoint(trainer: Trainer, tmp_path: Path) -> None:
    model = make_model(tmp_path / "published" / "model")
    lineage = make_lineage(tmp_path, make_recipe(model, graph__micro_batch_size=1, hardware__processes=2))
    file = tmp_path / "recipe.json"
    file.write_text(lineage.recipe.to_json())
    argv = [str(file), lineage.store.url, lineage.raw.url, lineage.version, str(tmp_path)]

    ended = trainer.request(argv, ranks=2, call=f"{PROBES}:save_from_two_nodes")

    first, second = found(tmp_path, ended)
    assert first["saved_to"][0].startswith(f"{lineage.store.url}/lora_checkpoints/"), "the folder that is published"
    assert second["saved_to"][0].startswith(str(tmp_path / "node-1"))
    assert first["left"] == second["left"] == []
    assert first["restored"] == second["restored"] == 2, "also where a rank does not see the checkpoint yet"


def test_one_process_alone_needs_no_group() -> None:

    from neuron_ops.training.ranks import Ranks

    ranks = Ranks()

    ranks.barrier()

    assert ranks.rank == 0
    assert ranks.from_first(lambda: "word") == "word"
