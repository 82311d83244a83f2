"""The whole plan of one recipe for one dataset version, and the verdict: go, or no-go with what to change.

What a step would refuse is refused here by the same functions. How a plan looks belongs to `report`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from neuron_ops.backends import Layout, device_memory, environment, layout, refuse_model
from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact
from neuron_ops.planning.data import DataPlan, padding_warnings, plan_data
from neuron_ops.planning.disk import check_disk
from neuron_ops.planning.duration import DurationPlan, plan_duration
from neuron_ops.planning.exposure import Exposure, exposure_warnings, plan_exposure, training_warnings
from neuron_ops.planning.graphs import GraphsPlan, plan_graphs
from neuron_ops.planning.judging import judging_seconds, judging_warnings
from neuron_ops.planning.memory import MemoryPlan, check_memory, memory_warnings, plan_memory
from neuron_ops.planning.model_files import check_weights, read_config
from neuron_ops.planning.model_shape import ModelShape, read_shape
from neuron_ops.planning.quantities import Range
from neuron_ops.recipe import Recipe
from neuron_ops.run import Run
from neuron_ops.steps import STEPS

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that would fail, or that somebody may not have meant."""

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
    """Everything that can be said before anything is started; None is what is not known yet."""

    dataset_version: str
    recipe: str
    instance_type: str | None
    problems: tuple[Problem, ...]
    data: DataPlan | None
    world: Layout | None
    environment: Mapping[str, str]
    """What every training process finds in its environment beside what is there."""
    exposure: Exposure | None
    model: ModelShape | None
    memory: MemoryPlan | None
    graphs: GraphsPlan | None
    duration: DurationPlan | None
    judging: Range | None
    """Seconds that `evaluate` computes on its CPUs."""
    artifacts: tuple[ArtifactState, ...]

    @property
    def refusals(self) -> tuple[Problem, ...]:
        """The problems that make it a no-go."""
        return tuple(problem for problem in self.problems if problem.blocking)

    @property
    def is_go(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.refusals


def make_forecast(run: Run, *, read_rows: bool = True, has_hub_token: bool = True) -> Forecast:
    """Plan everything that can be planned, and collect every problem instead of stopping at the first.

    Without `read_rows`, data counts only once it is prepared. `has_hub_token` is False where none is known to be there.

    Raises:
        MissingArtifact: the dataset version has not landed.
        Unavailable: the store did not answer.
    """
    run.raw.digest(run.version)
    return _Planner(run, read_rows, has_hub_token).forecast()


class _Planner:
    """One forecast in the making, and the problems found so far."""

    def __init__(self, run: Run, read_rows: bool, has_hub_token: bool) -> None:
        self._run, self._recipe = run, run.recipe
        self._read_rows, self._has_hub_token = read_rows, has_hub_token
        self._problems: dict[str, bool] = {}  # text -> blocking; a refusal that two parts meet is said once

    def forecast(self) -> Forecast:
        run, recipe = self._run, self._recipe
        model = self._attempt(self._model)
        data = self._attempt(lambda: plan_data(run, read_rows=self._read_rows, tokenize=model is not None))
        world = self._attempt(lambda: layout(recipe))
        exposure = plan_exposure(recipe, world, data) if world else None
        memory = self._memory(world, model)
        graphs = self._attempt(lambda: plan_graphs(run)) if world else None
        duration = self._duration(world, exposure, graphs, model)
        judging = judging_seconds(recipe, data, model)
        artifacts = tuple(self._state(step.artifact) for step in STEPS)
        self._warn_of(exposure_warnings(exposure) if exposure else ())
        self._warn_of(padding_warnings(data, recipe.graph.sequence_length) if data else ())
        self._warn_of(training_warnings(recipe.training))
        self._warn_of(judging_warnings(recipe, judging))
        self._warn_of(hub_warnings(run) if not self._has_hub_token else ())
        to_make = [state.artifact for state in artifacts if not state.finished]
        self._attempt(lambda: check_disk(run, to_make, data, model))
        return Forecast(
            dataset_version=run.version,
            recipe=recipe.name,
            instance_type=recipe.hardware.instance_type,
            problems=self._sorted_problems(),
            data=data,
            world=world,
            environment=environment(recipe) if world else {},
            exposure=exposure,
            model=model,
            memory=memory,
            graphs=graphs,
            duration=duration,
            judging=judging,
            artifacts=artifacts,
        )

    def _model(self) -> ModelShape | None:
        found = read_config(self._run)
        if found is None:
            return None
        config, folder = found
        shape = read_shape(config, f"{folder}/config.json")
        self._attempt(lambda: refuse_model(self._recipe, config))
        self._attempt(lambda: check_weights(self._run))
        self._warn_of(length_warnings(self._recipe, config))
        return shape

    def _memory(self, world: Layout | None, model: ModelShape | None) -> MemoryPlan | None:
        if world is None or model is None:
            return None
        memory = plan_memory(self._recipe, model, world, device_memory(self._recipe))
        self._attempt(lambda: check_memory(memory))
        self._warn_of(memory_warnings(memory))
        return memory

    def _duration(
        self, world: Layout | None, exposure: Exposure | None, graphs: GraphsPlan | None, model: ModelShape | None
    ) -> DurationPlan | None:
        if world is None or exposure is None:
            return None
        return self._attempt(lambda: plan_duration(self._run, world, exposure, graphs, model))

    def _state(self, artifact: str) -> ArtifactState:
        return self._attempt(lambda: _look_up(self._run, artifact)) or ArtifactState(artifact, False, None)

    def _attempt(self, part: Callable[[], T]) -> T | None:
        """The part, or None where it is refused; the refusal is then a problem of the whole."""
        try:
            return part()
        except (InvalidInput, CorruptArtifact) as error:
            self._problems[str(error)] = True
        except MissingArtifact:
            pass  # not made yet: the list of artifacts says so
        return None

    def _warn_of(self, texts: Iterable[str]) -> None:
        """Note them; looking for something to warn of may itself come upon a refusal."""
        for text in self._attempt(lambda: list(texts)) or ():
            self._problems.setdefault(text, False)

    def _sorted_problems(self) -> tuple[Problem, ...]:
        problems = [Problem(blocking, text) for text, blocking in self._problems.items()]
        return tuple(sorted(problems, key=lambda problem: not problem.blocking))


def length_warnings(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:  # Any: a model's config.json
    """Sequences that are longer than any that the base model has seen."""
    longest, length = config.get("max_position_embeddings"), recipe.graph.sequence_length
    if isinstance(longest, int) and length > longest:
        yield (
            f"graph.sequence_length is {length:,}, but {recipe.base_model.id} was made for {longest:,} tokens "
            "(max_position_embeddings) and may say nothing sensible beyond. Lower it."
        )


def hub_warnings(run: Run) -> Iterator[str]:
    """A gated repository and nobody to open it."""
    repository = run.recipe.base_model.repository
    if repository is not None and run.find("base_model") is None:
        yield (
            f"{repository} is still to be fetched, and there is no token for the Hugging Face hub here. If it is "
            "gated, as Meta's are, accept its licence on the hub and set HF_TOKEN where base_model is materialized."
        )


def _look_up(run: Run, artifact: str) -> ArtifactState:
    found = run.find(artifact)
    if found is not None:
        found.check_sizes()
    return ArtifactState(artifact, found is not None, str(run.plan(artifact).address))
