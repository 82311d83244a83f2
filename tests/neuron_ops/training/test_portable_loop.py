"""What the loop must not call: right on a CPU, silently wrong on Trainium; and pickles, which run what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuron_ops

PACKAGE = Path(neuron_ops.__file__).parent
LOOP = [PACKAGE / "steps" / "train.py", *sorted((PACKAGE / "training").glob("*.py"))]
BACKENDS = PACKAGE / "backends"

FORBIDDEN_IN_THE_LOOP = {
    "accelerator": "the loop speaks to a backend's process only",
    "Accelerator": "the loop speaks to a backend's process only",
    "clip_grad_norm_": "averages the gradients of different weights under tensor parallelism",
    "lr_scheduler": "a prepared scheduler advances once for every process",
    "get_scheduler": "a prepared scheduler advances once for every process",
    "reduce": "counts every tensor-parallel replica",
    "prepare": "replaces samplers and schedulers",
    "prepare_data_loader": "replaces the sampler",
    "DataLoader": "a prepared one replaces the sampler, and has no position to resume from",
    "skip_first_batches": "fails on a prepared loader",
    "save_state": "leaves out the optimizer of an adapter",
    "load_state": "does not find what save_state wrote",
}
HARMLESS = {"backward", "device", "prepare_model", "process_index"}
ALLOWED_OF_THE_ACCELERATOR = {
    # `reduce`: on cpu and cuda every process is a data-parallel rank.
    "cpu_process.py": HARMLESS | {"no_sync", "num_processes", "reduce", "unwrap_model"},
    # `clip_grad_norm_`: postponed to the optimizer's step, which the next test looks at.
    "neuron_process.py": HARMLESS | {"prepare_optimizer", "clip_grad_norm_"},
}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")


def chains_in(tree: ast.AST) -> Iterator[str]:
    """Dotted names, such as torch.save."""
    return (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("file", LOOP, ids=lambda file: file.stem)
def test_the_loop_makes_none_of_the_calls_that_go_wrong_on_trainium(file: Path) -> None:
    found = set(names_in(ast.parse(file.read_text())))

    assert not {name: FORBIDDEN_IN_THE_LOOP[name] for name in found & FORBIDDEN_IN_THE_LOOP.keys()}
    assert "accelerate" not in found


@pytest.mark.parametrize("file", ALLOWED_OF_THE_ACCELERATOR)
def test_a_backend_uses_the_harmless_part_of_the_accelerator(file: str) -> None:
    nodes = [node for node in ast.walk(ast.parse((BACKENDS / file).read_text())) if isinstance(node, ast.Attribute)]

    used = {node.attr for node in nodes if ast.unparse(node.value) == "self._accelerator"}

    assert used
    assert used <= ALLOWED_OF_THE_ACCELERATOR[file]


def test_on_trainium_gradients_are_clipped_within_the_optimizer_s_step() -> None:
    """Its own step sums gradients over ranks first: clipping before it would clip each rank's part."""
    tree = ast.parse((BACKENDS / "neuron_process.py").read_text())
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]

    assert [call for call in calls if "register_step_pre_hook" in call] == [
        "optimizer.register_step_pre_hook(self._clip)"
    ]
    assert not [call for call in calls if "_clip(" in call or "clip_grad_norm_" in call], "only the hook clips"


def test_the_batch_is_accumulated_by_the_backend_and_not_by_accelerate() -> None:
    tree = ast.parse((PACKAGE / "training" / "loop.py").read_text())

    assert [chain for chain in chains_in(tree) if chain.endswith(".accumulate")] == ["process.accumulate"]


def test_no_pickle_is_written_and_none_is_run() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        chains = set(chains_in(ast.parse(file.read_text())))

        assert not chains & {"torch.save", "torch.load", "np.load", "numpy.load"}, file
        # One reader of others' checkpoints derives from Unpickler to admit a dozen harmless names.
        calls = {chain for chain in chains if chain.split(".")[0] in PICKLERS and not chain.endswith("Error")}
        assert calls <= {"pickle.Unpickler"}, file
