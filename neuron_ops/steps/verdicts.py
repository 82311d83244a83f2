"""How metrics decide the checks that need no more than those; which step has which check, the table says.

Each is a function of the metrics in a manifest, so it also decides artifacts that are older than the check. What needs
more than metrics is decided in the step itself; the gates of `evaluation` are in gates/.
"""

from neuron_ops.steps.checks import Metrics, Verdict


def answers_are_in_the_loss(metrics: Metrics) -> Verdict:
    """`prepare` refuses a row without a learned token; this is what a person looks at first."""
    share = float(metrics["supervised_share"] or 0.0)
    return Verdict(
        passed=0.0 < share < 1.0,
        description=f"{share:.1%} of the tokens are learned: answers with their end-of-turn token, no prompt, no pad",
        values={"supervised_share": share},
    )


def held_out_loss_fell(metrics: Metrics) -> Verdict:
    """Whether the model may be used is decided on the merged weights, by the gates of `evaluate`."""
    before, best = float(str(metrics["base_eval_loss"])), float(str(metrics["best_eval_loss"]))
    return Verdict(
        passed=best < before,
        description=f"held-out loss {best:.4f} at best, {before:.4f} before training",
        values={"before": before, "best": best},
    )


def no_graph_was_compiled(metrics: Metrics) -> Verdict:
    """A training that compiled cost time; it is not wrong."""
    compiled, cache = int(metrics["graphs_compiled"] or 0), metrics["graphs_from"]
    if cache is None:
        words = "training ran eagerly: there was no graph to compile"
    elif compiled:
        words = f"training compiled {compiled} graphs that {cache} does not hold"
    else:
        words = f"every graph came from {cache}"
    return Verdict(passed=compiled == 0, description=words, values={"graphs_compiled": compiled})


def adapter_is_complete(metrics: Metrics) -> Verdict:
    """Two factors for each targeted linear layer of each decoder layer."""
    found, expected = int(metrics["tensors"] or 0), int(metrics["expected_tensors"] or 0)
    return Verdict(
        passed=found == expected,
        description=f"{found} factors; {expected} were expected, two for each target in each layer",
        values={"factors": found, "expected": expected},
    )
