"""Coming from AWS's sample: its script becomes a recipe, and every value that cannot be meant is one sentence."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fine_tune_assets.cli.aws_sample import COMMITS, import_script, read_variables
from fine_tune_assets.cli.main import main
from neuron_ops.backends import layout
from neuron_ops.recipe.file import load_recipe

# As people fill it in: our own text around the sample's variable names.
SCRIPT = r"""#!/bin/sh
# who we are
export AWS_REGION=$(aws configure get region)
export REGISTRY=${ACCOUNT}.dkr.ecr.${AWS_REGION}.amazonaws.com/
export IMAGE=tuning TAG=:7
export NAMESPACE=kubeflow
SIZE=trn1.32xlarge
export INSTANCE_TYPE="ml.${SIZE}"   # HyperPod's name
export NEURON_PER_NODE=16
export EFA_PER_NODE=8
export FSX_CLAIM=fsx-claim
export HF_ACCESS_TOKEN=<yours>
export MODEL_ID=meta-llama/Llama-3.1-8B
export DATASET_NAME=databricks/databricks-dolly-15k
export CHECKPOINT_DIR=/fsx/checkpoints
export MAX_SEQ_LENGTH=2048
export EPOCHS=1
export LEARNING_RATE=1e-4
export TP_SIZE=8 PP_SIZE=1
export TRAIN_BATCH_SIZE=2
export MAX_TRAINING_STEPS=\
900
cd somewhere
for one in a b; do echo "$one"; done
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "generate-jobspec.sh"
    path.write_text(SCRIPT)
    return path


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, ["import-aws-sample", *map(str, words)])


def _change(script: Path, old: str, new: str) -> Path:
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    return script


def test_the_script_becomes_a_recipe_that_loads(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.yaml"

    result = _run(script, "--out", out)

    assert result.exit_code == 0, result.output
    recipe = load_recipe(str(out))
    assert (recipe.base_model.repository, recipe.base_model.revision) == (
        "meta-llama/Llama-3.1-8B",
        COMMITS["meta-llama/Llama-3.1-8B"],
    )
    assert (recipe.graph.sequence_length, recipe.graph.micro_batch_size, recipe.graph.gradient_accumulation_steps) == (
        2048,
        2,
        3,
    )
    assert (recipe.training.max_steps, recipe.training.learning_rate, recipe.training.warmup_steps) == (900, 1e-4, 90)
    assert (recipe.hardware.instance_type, layout(recipe).world_size) == ("ml.trn1.32xlarge", 32)


def test_without_out_the_recipe_is_all_of_the_output(script: Path, tmp_path: Path) -> None:
    printed = _run(script)
    copy = tmp_path / "copy.yaml"
    copy.write_text(printed.stdout)

    assert load_recipe(str(copy)) == import_script(script).recipe
    assert "fixed" in printed.stderr


def test_nothing_of_the_script_is_run(script: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    _change(script, "export NAMESPACE=kubeflow", f"export NAMESPACE=$(touch {trap})\ntouch {trap}")

    assert _run(script).exit_code == 0
    assert not trap.exists()


def test_values_that_only_a_run_could_tell_are_unknown(script: Path) -> None:
    variables = read_variables(script)

    assert variables["AWS_REGION"] is None
    assert variables["REGISTRY"] is None
    assert variables["TAG"] == ":7"


def test_a_base_model_gets_our_chat_template_and_a_chat_model_keeps_its_own(script: Path) -> None:
    assert import_script(script).recipe.dataset.chat_template == "llama3"

    _change(script, "Llama-3.1-8B", "Llama-3.1-8B-Instruct")

    assert import_script(script).recipe.dataset.chat_template == "model"


def test_llama_3_without_a_padding_token_gets_a_reserved_one(script: Path) -> None:
    _change(script, "meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3-8B-Instruct")

    assert import_script(script).recipe.dataset.pad_token == "<|reserved_special_token_0|>"


def test_what_was_mended_is_said_with_this_script_s_numbers(script: Path) -> None:
    _change(script, "EFA_PER_NODE=8", "EFA_PER_NODE=4")

    said = _run(script).stderr

    assert "All 32 cores train, TP 8 x DP 4" in said
    assert "reads 24 rows where the sample's read 6" in said
    assert "EFA_PER_NODE=4 was wrong: ml.trn1.32xlarge has 8" in said
    assert "Warm-up is 90 steps" in said
    assert "CHECKPOINT_DIR is not needed" in said
    assert "databricks/databricks-dolly-15k" in said


def test_a_token_in_the_script_is_never_repeated(script: Path, tmp_path: Path) -> None:
    _change(script, "<yours>", "hf_canary_of_this_test")
    out = tmp_path / "ours.yaml"

    result = _run(script, "--out", out)

    assert "revoke it" in result.output
    assert "hf_canary" not in result.output + out.read_text()


def test_another_model_needs_the_commit_that_is_meant(script: Path) -> None:
    _change(script, "Llama-3.1-8B", "Llama-3.2-3B")
    commit = "0123456789abcdef0123456789abcdef01234567"

    assert "is not pinned to a commit (no --revision was given)" in _run(script).stderr
    assert "is not pinned to a commit (--revision is 'main')" in _run(script, "--revision", "main").stderr
    assert import_script(script, commit).recipe.base_model.revision == commit


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("export EPOCHS=1\nexport LEARNING_RATE=1e-4", "", "LEARNING_RATE has no value. Fill it in"),
        ("1e-4", "fast", "LEARNING_RATE='fast' is not a number."),
        ("1e-4", "-1", "LEARNING_RATE='-1' cannot be training.learning_rate: should be greater than 0"),
        ("TRAIN_BATCH_SIZE=2", "TRAIN_BATCH_SIZE=1.5", "TRAIN_BATCH_SIZE='1.5' is not a whole number."),
        ("2048", "1001", "MAX_SEQ_LENGTH='1001' cannot be graph.sequence_length: should be a multiple of 8"),
        ("TP_SIZE=8", "TP_SIZE=5", "INSTANCE_TYPE, TP_SIZE and PP_SIZE do not fit together."),
        ("TP_SIZE=8", "TP_SIZE=$(nproc)", "TP_SIZE is computed by the script, which is not run."),
        ("TP_SIZE=8", "TP_SIZE=${TP:-8}", "TP_SIZE is computed by the script, which is not run."),
        ("SIZE=trn1.32xlarge", "SIZE=p5.48xlarge", "hardware.instance_type is 'ml.p5.48xlarge'"),
        ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B", "MODEL_ID='mistralai/Mistral-7B' is not a Llama 3 model"),
        ("meta-llama/Llama-3.1-8B", "<model>", "MODEL_ID has no value."),
        ("NAMESPACE=kubeflow", "NAMESPACE='kubeflow", "line 6 cannot be read as shell (No closing quotation)"),
    ],
)
def test_a_script_that_cannot_be_meant_is_one_sentence(script: Path, old: str, new: str, said: str) -> None:
    result = _run(_change(script, old, new))

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_files_that_cannot_be_read_or_written_are_one_sentence(script: Path, tmp_path: Path) -> None:
    binary = tmp_path / "model.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    there = tmp_path / "there.yaml"
    there.write_text("name: mine\n")

    assert "No such file" in _run(tmp_path / "absent.sh").stderr
    assert "not UTF-8 text" in _run(binary).stderr
    assert "Is a directory" in _run(tmp_path).stderr
    assert "exists already" in _run(script, "--out", there).stderr
    assert there.read_text() == "name: mine\n"
    assert "must end in .yaml" in _run(script, "--out", tmp_path / "ours.txt").stderr
    assert "is not a folder" in _run(script, "--out", tmp_path / "absent" / "ours.yaml").stderr
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "cannot be written" in _run(script, "--out", tmp_path / "loop.yaml").stderr
