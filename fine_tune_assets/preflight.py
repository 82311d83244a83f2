"""Shows the plan of a run, which `fine-tune plan` prints too, and stops a no-go before an accelerator is booked.

The plan and its verdict belong to neuron_ops/planning; what a cluster lacks belongs to kubernetes/preflight.
"""

from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, AssetObservation, MetadataValue

from neuron_ops.errors import InvalidInput
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import Step

if TYPE_CHECKING:
    from neuron_ops.planning.forecast import Forecast


def show_and_require_go(context: AssetExecutionContext, step: Step, lineage: Lineage) -> None:
    """Show the plan with the asset, and stop if it is a no-go.

    Raises:
        InvalidInput: the plan is a no-go: this step or a later one would fail.
    """
    from neuron_ops.planning.forecast import make_forecast  # 25 CPU ms: only a step with an accelerator pays it
    from neuron_ops.planning.report import to_markdown

    forecast = make_forecast(lineage, read_rows=False)
    shown = {"plan": MetadataValue.md(to_markdown(forecast))}
    # As an observation now, for people who watch the run, and with the materialization, for people who look later.
    context.log_event(AssetObservation(step.artifact, partition=context.partition_key, metadata=shown))
    context.add_asset_metadata(shown, partition_key=context.partition_key)
    _obey(forecast)


def require_go(lineage: Lineage) -> None:
    """Stop if the plan is a no-go, before there is a pod and therefore without showing the plan.

    Raises:
        InvalidInput: the plan is a no-go.
    """
    from neuron_ops.planning.forecast import make_forecast  # 25 CPU ms: only a step with an accelerator pays it

    _obey(make_forecast(lineage, read_rows=False))


def _obey(forecast: "Forecast") -> None:
    if not forecast.is_go:
        raise InvalidInput(" ".join(problem.text for problem in forecast.refusals))
