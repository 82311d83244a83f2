"""`prepare` makes `tokenized_dataset`: raw rows as token sequences of one length, with a report."""

import logging
from pathlib import Path

from neuron_ops.rows.preparation import prepare_dataset
from neuron_ops.rows.report import PrepareReport
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.artifacts import CheckRecord

log = logging.getLogger(__name__)


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Tokenize the run's dataset version with the base model's tokenizer."""
    recipe = lineage.recipe
    with lineage.raw.local(lineage.version) as raw, lineage.require("base_model").local() as model:
        report = prepare_dataset(raw, model, recipe.dataset, recipe.graph.sequence_length, out, log.info)
    return program.StepResult(
        metrics={
            "rows_read": report.rows_read,
            "rows_kept": report.rows_kept,
            "rows_rejected": sum(report.rejected.values()),
            "training_rows": report.train.rows,
            "held_out_rows": report.holdout.rows,
            "training_sequences": report.train.sequences,
            "held_out_sequences": report.holdout.sequences,
            "tokens": report.train.tokens + report.holdout.tokens,
            "supervised_share": round(report.supervised_share, 4),
            "density": round(report.density, 4),
            "longest_row_tokens": report.longest_row,
            "sequence_length": report.sequence_length,
        },
        checks=(_answers_are_in_the_loss(report),),
    )


def _answers_are_in_the_loss(report: PrepareReport) -> CheckRecord:
    # The preparation refuses a row without a learned token; here stands what a person looks at first.
    share = report.supervised_share
    return CheckRecord(
        name="answers_are_in_the_loss",
        passed=0.0 < share < 1.0,
        description=f"{share:.1%} of the tokens are learned: answers with their end-of-turn token, no prompt, no pad",
        values={"supervised_share": share, "supervised_tokens": report.train.supervised_tokens},
    )


if __name__ == "__main__":
    program.main("prepare", build)
