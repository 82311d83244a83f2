"""`fine-tune plan`: go or no-go before any money is spent. Starts nothing; the exit code is the verdict."""

import click

from fine_tune_assets.recipe_options import chosen_run, with_recipe
from fine_tune_assets.settings import has_hub_token
from neuron_ops.errors import InvalidInput


@click.command()
@click.argument("version")
@with_recipe
@click.option("--json", "as_json", is_flag=True, help="Every number as JSON, for programs.")
def plan(version: str, recipe: str | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """What fine-tuning on dataset version VERSION would do, need, take and cost, and what is finished already.

    Starts nothing. Ends with 0 for go, and with 2 when something stands in the way; problems come first.
    """
    from neuron_ops.planning.forecast import make_forecast
    from neuron_ops.planning.report import to_json, to_text

    forecast = make_forecast(chosen_run(recipe, pairs, version), has_hub_token=has_hub_token())
    click.echo(to_json(forecast) if as_json else to_text(forecast))
    if not forecast.is_go:
        count = len(forecast.refusals)
        raise InvalidInput(
            f"No-go for {version} with {forecast.recipe}: {count} problem{'s' * (count > 1)}, listed at the top."
        )
