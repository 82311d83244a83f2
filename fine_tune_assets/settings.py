"""The default recipe, store and deployment of a process, from environment variables.

No other module of the Dagster side reads the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from neuron_ops.errors import InvalidInput

Deployment = Literal["local", "kubernetes"]

DEFAULT_RECIPE = "tiny_llama_cpu"


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults that a run's configuration or a command's options override."""

    recipe: str
    """FINE_TUNE_RECIPE: name of a shipped recipe, path of a file, or the recipe itself as YAML."""
    store: str
    """FINE_TUNE_STORE: folder or s3://bucket/prefix of the artifacts."""
    raw: str
    """FINE_TUNE_RAW: folder or s3://bucket/prefix that dataset versions land in."""
    dagster_home: str | None
    """DAGSTER_HOME: where Dagster keeps its instance; None means a temporary one."""
    deployment: Deployment = "local"
    """FINE_TUNE_DEPLOYMENT: local, or kubernetes where each step runs in a pod of its own."""
    pods: str | None = None
    """FINE_TUNE_PODS: the team's settings of these pods, or a file that holds them; None means their defaults."""
    pod: str | None = None
    """FINE_TUNE_OWN_POD: NAMESPACE/NAME of the pod that this process runs in; None: as found in the pod."""
    kubeconfig: str | None = None
    """KUBECONFIG: file that says how to reach the cluster; None: the pod's service account, else ~/.kube/config."""


def read_settings() -> Settings:
    """The settings from the environment; by default everything lies below ./.fine_tune."""
    store = os.environ.get("FINE_TUNE_STORE") or str(Path.cwd() / ".fine_tune" / "artifacts")
    return Settings(
        recipe=os.environ.get("FINE_TUNE_RECIPE") or DEFAULT_RECIPE,
        store=store,
        raw=os.environ.get("FINE_TUNE_RAW") or f"{store.rstrip('/')}/raw",
        dagster_home=os.environ.get("DAGSTER_HOME") or None,
        deployment=_deployment(os.environ.get("FINE_TUNE_DEPLOYMENT") or "local"),
        pods=os.environ.get("FINE_TUNE_PODS") or None,
        pod=os.environ.get("FINE_TUNE_OWN_POD") or None,
        kubeconfig=os.environ.get("KUBECONFIG") or None,
    )


def has_hub_token() -> bool:
    """Whether the hub's client would find a token here: in its variables, or where `hf auth login` puts it."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").is_file()


def _deployment(name: str) -> Deployment:
    for known in get_args(Deployment):
        if name == known:
            deployment: Deployment = known
            return deployment
    raise InvalidInput(f"FINE_TUNE_DEPLOYMENT is {name!r}. Set it to one of {', '.join(get_args(Deployment))}.")
