"""The whole forecast of one recipe for one dataset version, and the verdict: go, or no-go with what to change.

The functions by which steps refuse their inputs refuse them here too. Showing a forecast belongs to `report`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from neuron_ops.backends import environment, find_backend, layout, refuse_model
from neuron_ops.backends.layout import Layout
from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.models.config import CONFIG, read_shape, refuse_other_targets
from neuron_ops.models.shape import ModelShape
from neuron_ops.planning.data import DataForecast, forecast_data, padding_warnings
from neuron_ops.planning.disk import check_disk
from neuron_ops.planning.duration import DurationForecast, forecast_duration
from neuron_ops.planning.epochs import Epochs, epoch_warnings, forecast_epochs, training_warnings
from neuron_ops.planning.evaluation_time import evaluation_seconds, evaluation_warnings
from neuron_ops.planning.graphs import GraphCacheForecast, forecast_graph_cache
from neuron_ops.planning.memory import MemoryForecast, check_memory, forecast_memory, memory_warnings
from neuron_ops.planning.model_files import check_weights, read_config
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe.schema import Recipe
from neuron_ops.steps.addresses import Lineage
from neuron_ops.steps.table import STEPS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would fail, or that the user may not have meant."""

    blocking: bool
    text: str


@dataclass(frozen=True, slots=True)
class ArtifactState:
    """One artifact of the graph."""

    artifact: str
    finished: bool
    address: str | None
    """None while its inputs are not finished."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """All that is known before the launch; fields that are not known yet are None."""

    dataset_version: str
    recipe: str
    instance_type: str | None
    problems: tuple[Problem, ...]
    data: DataForecast | None
    world: Layout | None
    environment: Mapping[str, str]
    """Variables that every training process gets in addition to its environment."""
    epochs: Epochs | None
    model: ModelShape | None
    memory: MemoryForecast | None
    graphs: GraphCacheForecast | None
    duration: DurationForecast | None
    evaluation: Range | None
    """Seconds that `evaluate` computes on its CPUs."""
    artifacts: tuple[ArtifactState, ...]

    @property
    def refusals(self) -> tuple[Problem, ...]:
        """The problems that make it a no-go."""
        return tuple(problem for problem in self.problems if problem.blocking)

    @property
    def is_go(self) -> bool:
        """Whether no problem is blocking."""
        return not self.refusals


def make_forecast(lineage: Lineage, *, read_rows: bool = True, has_hub_token: bool = True) -> Forecast:
    """Forecast everything possible, and collect all problems instead of stopping at the first.

    Without `read_rows`, the data is only known once it is prepared. `has_hub_token` is False if no token is known.

    Raises:
        MissingArtifact: the dataset version has not landed.
        Unavailable: the store did not answer.
    """
    lineage.raw.digest(lineage.version)
    return _Forecaster(lineage, read_rows, has_hub_token).forecast()


class _Forecaster:
    """One forecast in the making, and the problems found so far."""

    def __init__(self, lineage: Lineage, read_rows: bool, has_hub_token: bool) -> None:
        self._lineage, self._recipe = lineage, lineage.recipe
        self._read_rows, self._has_hub_token = read_rows, has_hub_token
        self._problems: dict[str, bool] = {}  # text -> blocking; a refusal from two parts is listed once

    def forecast(self) -> Forecast:
        lineage, recipe = self._lineage, self._recipe
        model = self._attempt(self._model)
        data = self._attempt(lambda: forecast_data(lineage, read_rows=self._read_rows, tokenize=model is not None))
        world = self._attempt(lambda: layout(recipe))
        epochs = self._attempt(lambda: forecast_epochs(recipe, world, data)) if world else None
        memory = self._memory(world, model)
        graphs = self._attempt(lambda: forecast_graph_cache(lineage)) if world else None
        duration = self._duration(world, epochs, graphs, model)
        evaluation = evaluation_seconds(recipe, data, model)
        artifacts = tuple(self._state(step.artifact) for step in STEPS)
        self._warn_of(epoch_warnings(recipe.training, epochs) if epochs else ())
        self._warn_of(padding_warnings(data, recipe.graph.sequence_length) if data else ())
        self._warn_of(training_warnings(recipe.training, epochs))
        self._warn_of(evaluation_warnings(recipe, evaluation))
        self._warn_of(hub_warnings(lineage) if not self._has_hub_token else ())
        to_make = [state.artifact for state in artifacts if not state.finished]
        self._attempt(lambda: check_disk(lineage, to_make, data, model))
        return Forecast(
            dataset_version=lineage.version,
            recipe=recipe.name,
            instance_type=recipe.hardware.instance_type,
            problems=self._sorted_problems(),
            data=data,
            world=world,
            environment=environment(recipe) if world else {},
            epochs=epochs,
            model=model,
            memory=memory,
            graphs=graphs,
            duration=duration,
            evaluation=evaluation,
            artifacts=artifacts,
        )

    def _model(self) -> ModelShape | None:
        found = read_config(self._lineage)
        if found is None:
            return None
        config, folder = found
        shape = read_shape(config, f"{folder}/{CONFIG}")
        self._attempt(lambda: refuse_other_targets(config, self._recipe.graph.lora.target_modules))
        self._attempt(lambda: refuse_model(self._recipe, config))
        self._attempt(lambda: check_weights(self._lineage))
        self._warn_of(length_warnings(self._recipe, config))
        return shape

    def _memory(self, world: Layout | None, model: ModelShape | None) -> MemoryForecast | None:
        if world is None or model is None:
            return None
        hardware = self._recipe.hardware
        memory = forecast_memory(self._recipe, model, world, find_backend(hardware).device_memory(hardware))
        self._attempt(lambda: check_memory(memory))
        self._warn_of(memory_warnings(memory))
        return memory

    def _duration(
        self, world: Layout | None, epochs: Epochs | None, graphs: GraphCacheForecast | None, model: ModelShape | None
    ) -> DurationForecast | None:
        if world is None or epochs is None:
            return None
        return self._attempt(lambda: forecast_duration(self._lineage, world, epochs, graphs, model))

    def _state(self, artifact: str) -> ArtifactState:
        state = self._attempt(lambda: _look_up(self._lineage, artifact)) or ArtifactState(artifact, False, None)
        if state.finished:  # it is reused with its verdict: a gate that it failed, it fails again
            self._attempt(lambda: self._lineage.require(artifact))
        return state

    def _attempt(self, part: Callable[[], T]) -> T | None:
        """The part, or None if it is refused; the refusal is then one of the forecast's problems."""
        try:
            return part()
        except (InvalidInput, CorruptArtifact) as error:
            self._problems[str(error)] = True
        except MissingArtifact:
            pass  # not made yet: the list of artifacts says so
        return None

    def _warn_of(self, texts: Iterable[str]) -> None:
        """Collect the warnings; computing them may itself raise a refusal."""
        for text in self._attempt(lambda: list(texts)) or ():
            self._problems.setdefault(text, False)

    def _sorted_problems(self) -> tuple[Problem, ...]:
        problems = [Problem(blocking, text) for text, blocking in self._problems.items()]
        return tuple(sorted(problems, key=lambda problem: not problem.blocking))


def length_warnings(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:  # Any: a model's config.json
    """Warn about sequences that are longer than those that the base model was made for."""
    longest, length = config.get("max_position_embeddings"), recipe.graph.sequence_length
    if isinstance(longest, int) and length > longest:
        yield (
            f"graph.sequence_length is {length:,}, but {recipe.base_model.id} was made for {longest:,} tokens "
            "(max_position_embeddings) and may give useless output beyond that. Lower it."
        )


def hub_warnings(lineage: Lineage) -> Iterator[str]:
    """Warn if the repository may be gated and there is no token for it."""
    repository = lineage.recipe.base_model.repository
    if repository is not None and lineage.find("base_model") is None:
        yield (
            f"{repository} is not fetched yet, and there is no token for the Hugging Face hub here. If it is "
            "gated, as Meta's are, accept its licence on the hub and set HF_TOKEN where base_model is materialized."
        )


def _look_up(lineage: Lineage, artifact: str) -> ArtifactState:
    found = lineage.find(artifact)
    if found is not None:
        found.check_sizes()
    return ArtifactState(artifact, found is not None, str(lineage.provenance(artifact).address))
