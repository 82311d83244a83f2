"""`prepare` makes `tokenized_dataset`: raw rows as token sequences of one length, with a report."""

import logging
from pathlib import Path

from neuron_ops.rows.preparation import prepare_dataset
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage

log = logging.getLogger(__name__)


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Tokenize the lineage's dataset version with the base model's tokenizer."""
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
            "supervised_tokens": report.train.supervised_tokens,
            "density": round(report.density, 4),
            "longest_row_tokens": report.longest_row,
            "sequence_length": report.sequence_length,
        },
    )


if __name__ == "__main__":
    program.main("prepare", build)
