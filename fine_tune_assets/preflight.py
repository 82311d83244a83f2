"""The plan of a run, shown and obeyed before an accelerator is booked: the same one that `fine-tune plan` prints.

What is planned and why it is a no-go belong to neuron_ops/planning; what a cluster lacks, to kubernetes/preflight.
"""

from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, AssetObservation, MetadataValue

from neuron_ops.errors import InvalidInput
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import Step

if TYPE_CHECKING:
    from neuron_ops.planning.forecast import Forecast


def show_and_require_go(context: AssetExecutionContext, step: Step, lineage: Lineage) -> None:
    """Show the plan with the asset, and end here where it is a no-go.

    Raises:
        InvalidInput: something stands in the way of this step or of a later one.
    """
    from neuron_ops.planning.forecast import make_forecast  # 25 CPU ms: only who books an accelerator pays it
    from neuron_ops.planning.report import to_markdown

    forecast = make_forecast(lineage, read_rows=False)
    shown = {"plan": MetadataValue.md(to_markdown(forecast))}
    # Now, as an observation, for whoever watches the run; and with the materialization, for whoever looks later.
    context.log_event(AssetObservation(step.artifact, partition=context.partition_key, metadata=shown))
    context.add_asset_metadata(shown, partition_key=context.partition_key)
    _obey(forecast)


def require_go(lineage: Lineage) -> None:
    """End here where the plan is a no-go, without an asset to show it with: before there is a pod.

    Raises:
        InvalidInput: something stands in the way of this run.
    """
    from neuron_ops.planning.forecast import make_forecast  # 25 CPU ms: only who books an accelerator pays it

    _obey(make_forecast(lineage, read_rows=False))


def _obey(forecast: "Forecast") -> None:
    if not forecast.is_go:
        raise InvalidInput(" ".join(problem.text for problem in forecast.refusals))
