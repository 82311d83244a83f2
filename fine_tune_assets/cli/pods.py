"""`fine-tune pods` prints the pods that the Kubernetes deployment would create; `fine-tune janitor` deletes old ones.

The content of a pod belongs to kubernetes/pods, the choice of what to delete to kubernetes/janitor.
"""

import click

from fine_tune_assets.cli.recipe_options import chosen_recipe, with_recipe
from fine_tune_assets.settings import read_settings
from neuron_ops.errors import InvalidInput
from neuron_ops.steps.table import BY_ARTIFACT, STEPS


@click.command()
@click.argument("asset", required=False)
@with_recipe
@click.option("--finished", is_flag=True, help="The pod of an asset whose artifact exists already.")
def pods(asset: str | None, recipe: str | None, pairs: tuple[str, ...], finished: bool) -> None:
    """Print the pod of ASSET, or of every asset, as YAML for dagster_k8s. Needs no cluster.

    Refuses settings in FINE_TUNE_PODS and a store that would fail in the cluster.
    """
    import yaml

    from fine_tune_assets.kubernetes.deployment import check_store  # Dagster: 440 CPU ms
    from fine_tune_assets.kubernetes.pods.config import pod_config  # 8 CPU ms with the settings
    from fine_tune_assets.kubernetes.pods.settings import load_pods

    if asset is not None and asset not in BY_ARTIFACT:
        raise InvalidInput(f"{asset!r} is not an asset. The assets are {', '.join(BY_ARTIFACT)}.")
    settings = read_settings()
    team = load_pods(settings.pods)
    check_store(settings.store, team)
    chosen = chosen_recipe(recipe, pairs)
    steps = [BY_ARTIFACT[asset]] if asset else STEPS
    configs = {step.artifact: pod_config(step, chosen, team, finished=finished) for step in steps}
    click.echo(yaml.dump(configs, Dumper=_plain_dumper(), sort_keys=False).rstrip())


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
def janitor(dry_run: bool) -> None:
    """Delete the Kubernetes Jobs that finished runs left behind, with their pods. The sensor does the same."""
    settings = read_settings()
    if settings.dagster_home is None:
        raise InvalidInput(
            "DAGSTER_HOME is not set, so it is unknown which runs have ended. Set it to the folder of the instance."
        )

    from dagster import DagsterInstance

    from fine_tune_assets.kubernetes.janitor import sweep  # Dagster: 440 CPU ms
    from fine_tune_assets.kubernetes.pods.settings import load_pods

    namespace = load_pods(settings.pods).namespace
    with DagsterInstance.get() as instance:
        names = sweep(instance, namespace, dry_run=dry_run)
    for name in names:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {name}")
    if not names:
        click.echo("nothing was left behind")


def _plain_dumper() -> type:
    """A YAML dumper without anchors, because the same dictionary appears in several places."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return Plain
