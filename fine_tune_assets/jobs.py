"""Named selections of the graph that people and sensors launch."""

from dagster import AssetSelection, define_asset_job

from neuron_ops.steps.table import STEPS

fine_tune = define_asset_job(
    "fine_tune",
    selection=AssetSelection.assets(*(step.artifact for step in STEPS)),
    description="Everything from a dataset version to a merged, evaluated model; what is finished is reused.",
)
