"""`fine-tune plan`: go or no-go before any money is spent. Starts nothing; the exit code is the verdict.

What is planned and how it reads belong to neuron_ops/planning.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import click

from fine_tune_assets.cli.recipe_options import chosen_lineage, with_recipe
from fine_tune_assets.settings import Deployment, has_hub_token, read_settings
from neuron_ops.errors import InvalidInput
from neuron_ops.recipe.schema import Recipe

if TYPE_CHECKING:
    from neuron_ops.planning.forecast import Forecast


@click.command()
@click.argument("version")
@with_recipe
@click.option(
    "--deployment",
    type=click.Choice(get_args(Deployment)),
    help="Where to run (default: FINE_TUNE_DEPLOYMENT, else local). For kubernetes, pods and cluster are checked too.",
)
@click.option("--json", "as_json", is_flag=True, help="Every number as JSON, for programs.")
def plan(
    version: str, recipe: str | None, pairs: tuple[str, ...], deployment: Deployment | None, as_json: bool
) -> None:
    """Print what fine-tuning on dataset version VERSION would do, need, take and cost, and what is finished already.

    Starts nothing. The exit code is 0 for go and 2 for no-go; problems are listed first.
    """
    from neuron_ops.planning.forecast import make_forecast  # 25 CPU ms: only this command pays it
    from neuron_ops.planning.report import to_json, to_text

    lineage = chosen_lineage(recipe, pairs, version)
    forecast = make_forecast(lineage, has_hub_token=has_hub_token())
    if (deployment or read_settings().deployment) == "kubernetes":
        forecast = _with_pods(forecast, lineage.recipe)
    click.echo(to_json(forecast) if as_json else to_text(forecast))
    if not forecast.is_go:
        count = len(forecast.refusals)
        raise InvalidInput(
            f"No-go for {version} with {forecast.recipe}: {count} problem{'s' * (count > 1)}, listed at the top."
        )


def _with_pods(forecast: "Forecast", recipe: Recipe) -> "Forecast":
    """The forecast with what would fail in Kubernetes; a problem that both find is listed once."""
    from fine_tune_assets.kubernetes.preflight import preflight  # Dagster: 440 CPU ms

    said = {problem.text for problem in forecast.problems}
    found = [problem for problem in preflight(read_settings(), recipe) if problem.text not in said]
    return replace(forecast, problems=tuple(sorted([*forecast.problems, *found], key=lambda item: not item.blocking)))
