"""The project's own assets with the executor that unmodified dagster-k8s has: what pods of the demo import."""

from dagster import Definitions
from dagster_k8s import k8s_job_executor

from fine_tune_assets.assets import build_assets
from fine_tune_assets.resources import fine_tuning
from fine_tune_assets.settings import read_settings

definitions = Definitions(
    assets=build_assets(), resources={"fine_tuning": fine_tuning(read_settings())}, executor=k8s_job_executor
)
