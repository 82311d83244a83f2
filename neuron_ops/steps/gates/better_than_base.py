"""The gate that stops a model that is not better than its base model."""

from neuron_ops.steps.checks import Check, Metrics, Verdict


def _verdict(metrics: Metrics) -> Verdict:
    improvement, wanted = float(metrics["improvement"] or 0.0), float(metrics["min_improvement"] or 0.0)
    return Verdict(
        passed=improvement > wanted,
        description=(
            f"held-out loss {metrics['tuned_loss']:.4f} against the base's {metrics['base_loss']:.4f}; "
            f"it must fall by more than {wanted}"
        ),
        values={name: metrics[name] for name in ("base_loss", "tuned_loss", "improvement")},
    )


GATE = Check(
    "better_than_base",
    "Held-out loss is lower than the base model's: a worse model is stopped here.",
    from_metrics=_verdict,
)
