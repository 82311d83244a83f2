"""This checkout as an image: its environment's programs and its code."""

from pathlib import Path

from tests.cluster.pod_setup import Image

ROOT = Path(__file__).parents[2]
IMAGE = "local/fine-tune:test"
CHECKOUT = Image(environment={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DAGSTER_DISABLE_TELEMETRY": "yes"})
