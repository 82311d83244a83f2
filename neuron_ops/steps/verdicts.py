"""The checks that metrics alone decide; the table says which step has which check.

Each verdict is a function of the metrics in a manifest, so it also covers artifacts that are older than the check. A
check that needs more than metrics belongs to its step, a gate of `evaluation` to gates/.
"""

from neuron_ops.steps.checks import Metrics, Verdict


def answers_are_in_the_loss(metrics: Metrics) -> Verdict:
    """The share of tokens in the loss lies between 0 and 1; `prepare` itself refuses a row without a learned token."""
    share = float(metrics["supervised_share"] or 0.0)
    return Verdict(
        passed=0.0 < share < 1.0,
        description=f"{share:.1%} of the tokens are learned: answers with their end-of-turn token, no prompt, no pad",
        values={"supervised_share": share},
    )


def held_out_loss_fell(metrics: Metrics) -> Verdict:
    """Training lowered the held-out loss. Whether the merged model may be used is for the gates of `evaluate`."""
    before, best = float(str(metrics["base_eval_loss"])), float(str(metrics["best_eval_loss"]))
    return Verdict(
        passed=best < before,
        description=f"held-out loss {best:.4f} at best, {before:.4f} before training",
        values={"before": before, "best": best},
    )


def no_graph_was_compiled(metrics: Metrics) -> Verdict:
    """Training found every graph in the cache. Compiling one costs time, but the result is correct."""
    compiled, cache = int(metrics["graphs_compiled"] or 0), metrics["graphs_from"]
    if cache is None:
        words = "training ran eagerly: there was no graph to compile"
    elif compiled:
        words = f"training compiled {compiled} graphs that {cache} does not hold"
    else:
        words = f"every graph came from {cache}"
    return Verdict(passed=compiled == 0, description=words, values={"graphs_compiled": compiled})


def adapter_is_complete(metrics: Metrics) -> Verdict:
    """The adapter has two factors for each targeted linear layer of each decoder layer."""
    found, expected = int(metrics["tensors"] or 0), int(metrics["expected_tensors"] or 0)
    return Verdict(
        passed=found == expected,
        description=f"{found} factors; {expected} were expected, two for each target in each layer",
        values={"factors": found, "expected": expected},
    )
