"""The team's settings of the assets' pods: a few lines of YAML, in FINE_TUNE_PODS or in a file that it names.

How many accelerators a pod books is not a setting: it follows from the recipe's hardware (resources.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neuron_ops.errors import InvalidInput
from neuron_ops.steps.table import BY_ARTIFACT

INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"


LIMITS = ("pending_timeout_seconds", "check_interval_seconds", "max_disruptions")
"""Settings that a run may change in the launchpad, as fields of the executor."""


def _text(pattern: str, like: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {like}, got {text!r}")
        return text

    return AfterValidator(check)


Name = Annotated[str, _text(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a Kubernetes name in lower case")]
Quantity = Annotated[str, _text(r"[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)", "an amount such as 64Gi")]
CpuQuantity = Annotated[str, _text(r"[1-9][0-9]*(\.[0-9]+|m)?|0\.[0-9]*[1-9]", "a number of cores such as 4 or 500m")]
MountPath = Annotated[str, _text(r"/.+", "an absolute path")]
Seconds = Annotated[int, Field(ge=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class Volume(_Closed):
    """A volume that exists in the namespace, and where a pod sees it."""

    claim: Name
    """PersistentVolumeClaim, such as that of an FSx for Lustre file system."""
    mount: MountPath
    """Absolute path in the pod."""
    read_only: bool = False
    """Whether pods may only read it."""


class Toleration(_Closed):
    """A taint that pods tolerate; the accelerator's own is tolerated anyway."""

    key: str
    """The taint's key."""
    value: str | None = None
    """The taint's value; null tolerates any."""
    effect: str | None = None
    """NoSchedule, NoExecute or PreferNoSchedule; null tolerates all three."""


class PodSettings(_Closed):
    """Settings of pods. `default` holds for all; `training` and then the asset's own settings override it, and a field
    that they do not give keeps its more general value."""

    image: str | None = None
    """Container image; null: the one of the run."""
    service_account: Name | None = None
    """Service account whose role reads and writes the store; null: the run's."""
    cpu: CpuQuantity | None = None
    """CPU cores, as request and limit."""
    memory: Quantity | None = None
    """Main memory, as request and limit. A pod that uses more is killed."""
    scratch: Quantity | None = None
    """Local disk for temporary files, mounted at /scratch and named by TMPDIR."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which processes of one pod exchange tensors through; it counts as memory."""
    secrets: tuple[Name, ...] | None = None
    """Secrets whose keys become environment variables, such as HF_TOKEN where a base model is fetched."""
    volumes: tuple[Volume, ...] | None = None
    """Volumes; a more specific list replaces the more general one."""
    node_selector: dict[str, str] | None = None
    """Labels that a node must have. The accelerator's instance type comes from the recipe."""
    tolerations: tuple[Toleration, ...] | None = None
    """Taints to tolerate."""
    priority_class: Name | None = None
    """PriorityClass of the pods."""
    queue: Name | None = None
    """Kueue's LocalQueue that the Jobs wait in."""
    deadline_minutes: Annotated[int, Field(ge=1)] | None = None
    """Longest life of a step's Job in minutes, its waiting included."""

    @field_validator("node_selector")
    @classmethod
    def _leaves_the_instance_type_alone(cls, selector: dict[str, str] | None) -> dict[str, str] | None:
        if selector and INSTANCE_TYPE_LABEL in selector:
            raise ValueError(f"must not name {INSTANCE_TYPE_LABEL}: it comes from the recipe's hardware.instance_type")
        return selector

    @field_validator("volumes")
    @classmethod
    def _one_volume_a_path(cls, volumes: tuple[Volume, ...] | None) -> tuple[Volume, ...] | None:
        mounts = [volume.mount for volume in volumes or ()]
        if len(set(mounts)) < len(mounts):
            raise ValueError(f"two volumes have the same mount; got {mounts}")
        return volumes

    def over(self, general: Self) -> Self:
        """These settings; a field that is not given comes from the more general ones."""
        given = {name: value for name, value in self if value is not None}
        return general.model_copy(update=given)


class Pods(_Closed):
    """The deployment: its namespace, its limits, and settings from general to specific."""

    namespace: Name | None = None
    """Namespace of the step pods; null: the run's."""
    user: Annotated[int, Field(ge=1)] | None = None
    """User and file system group that pods run as; null: the image's own user, which must not be root."""
    pending_timeout_seconds: Seconds = 1800
    """A step fails when its pod, or the pod of one of its nodes, does not run within this time. Nodes with accelerators
    need minutes to appear."""
    check_interval_seconds: Seconds = 15
    """Seconds between two checks of the pods of a run, or of a training on several nodes; each lists the pods once."""
    max_disruptions: Annotated[int, Field(ge=0)] = 10
    """How often one try of a step starts again because one of its nodes was taken away. Not counted as a retry."""
    default: PodSettings = PodSettings(cpu="1", memory="4Gi", scratch="20Gi")
    """Settings of every asset's pod."""
    training: PodSettings = PodSettings()
    """Settings of the assets that run on the recipe's hardware: compiled_graph_cache and lora_checkpoints."""
    assets: dict[str, PodSettings] = {}
    """Settings of one asset, by its name."""

    @model_validator(mode="after")
    def _known_assets(self) -> Self:
        if unknown := sorted(set(self.assets) - set(BY_ARTIFACT)):
            raise ValueError(f"assets: {unknown[0]!r} is not an asset; the assets are {', '.join(BY_ARTIFACT)}")
        return self

    def settings(self, artifact: str, *, for_hardware: bool) -> PodSettings:
        """The settings of an asset's pod, the most specific first."""
        general = self.training.over(self.default) if for_hardware else self.default
        return self.assets.get(artifact, PodSettings()).over(general)

    def mounts(self) -> tuple[str, ...]:
        """Paths that every pod sees on a shared volume."""
        return tuple(volume.mount for volume in self.default.volumes or ())


def load_pods(setting: str | None) -> Pods:
    """The settings that FINE_TUNE_PODS names or holds: text of several lines is the YAML itself, as in a ConfigMap.

    Raises:
        InvalidInput: it cannot be read, or a field in it is wrong.
    """
    if setting is None:
        return Pods()
    is_path = "\n" not in setting
    where = f"FINE_TUNE_PODS names {setting!r}" if is_path else "FINE_TUNE_PODS holds settings"
    try:
        content = yaml.safe_load(Path(setting).read_text(encoding="utf-8") if is_path else setting) or {}
    except OSError as error:
        raise InvalidInput(f"{where}, which cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{where}, which is not YAML: {' '.join(str(error).split())}.") from error
    try:
        return Pods.model_validate(content)
    except ValidationError as error:
        raise InvalidInput(f"{where}: {_problems(error)}.") from error


def pods_of_run(pods: Pods, run_config: Mapping[str, Any]) -> Pods:  # Any: Dagster's configuration of a run
    """The team's settings, with the limits that one run's executor configuration changes."""
    config = run_config.get("execution", {}).get("config", {})
    return pods.model_copy(update={name: config[name] for name in LIMITS if name in config})


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False)
    )
