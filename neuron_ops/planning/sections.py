"""The content of a forecast for people, section by section, without any layout.

Writing it for a terminal, a page or JSON belongs to report; the numbers belong to their forecasts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from neuron_ops.backends.layout import Layout
from neuron_ops.planning.data import DataForecast
from neuron_ops.planning.duration import DurationForecast
from neuron_ops.planning.epochs import Epochs
from neuron_ops.planning.forecast import Forecast
from neuron_ops.planning.graphs import GraphCacheForecast
from neuron_ops.planning.memory import MemoryForecast
from neuron_ops.planning.quantities import (
    Range,
    show_bytes,
    show_count,
    show_factor,
    show_seconds,
    show_share,
    show_usd,
)

Rows = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A title, labelled values, and their assumptions."""

    title: str
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def sections(forecast: Forecast) -> list[Section]:
    """All sections; a section about which nothing is known yet says why."""
    return [
        _data(forecast.data),
        _training(forecast.epochs, forecast.data),
        _world(forecast),
        _memory(forecast.memory, forecast.world),
        _graphs(forecast.graphs),
        _duration(forecast.duration, forecast.evaluation),
        Section("Artifacts", tuple(_artifacts(forecast))),
    ]


def _data(data: DataForecast | None) -> Section:
    if data is None:
        return Section("Data", (("not known", "see above, or materialize tokenized_dataset first"),))
    rows = (
        (
            "rows",
            f"{data.rows:,}: {show_count(data.training_rows)} to train on and "
            f"{show_count(data.held_out_rows)} held out",
        ),
        ("tokens", f"{show_count(data.tokens)} to train on"),
        ("in the loss", show_share(data.supervised_share)),
        ("sequences", f"{show_count(data.sequences)}, and {show_count(data.held_out_sequences)} held out"),
        ("padding", show_share(data.padding_share)),
    )
    return Section("Data", rows, (data.source,))


def _training(epochs: Epochs | None, data: DataForecast | None) -> Section:
    if epochs is None:
        return Section("Training", (("not known", "see above, or materialize tokenized_dataset first"),))
    rows = [
        ("steps", f"{show_count(epochs.steps)} of {epochs.sequences_per_step:,} sequences"),
        ("tokens", f"{show_count(epochs.positions)}, padding included"),
    ]
    if epochs.number is not None and data is not None:
        learned = data.tokens.times(epochs.number).times(data.supervised_share)
        rows.insert(1, ("epochs really seen", show_factor(epochs.number)))
        rows.append(("tokens in the loss", show_count(learned)))
    return Section("Training", tuple(rows))


def _world(forecast: Forecast) -> Section:
    world = forecast.world
    if world is None:
        return Section("World", (("not known", "see above, or materialize tokenized_dataset first"),))
    rows = [
        ("backend", world.backend),
        ("processes", f"{world.world_size} ({world.nodes} x {world.processes_per_node})"),
        (
            "layout",
            f"tensor parallel {world.tensor_parallel_size} x pipeline parallel {world.pipeline_parallel_size} x "
            f"data parallel {world.data_parallel_size}",
        ),
    ]
    if forecast.instance_type is not None:
        rows.insert(1, ("nodes", f"{world.nodes} x {forecast.instance_type}, no core idle"))
    rows += [("environment", f"{name}={value}") for name, value in sorted(forecast.environment.items())]
    return Section("World", tuple(rows))


def _memory(memory: MemoryForecast | None, world: Layout | None) -> Section:
    if memory is None:
        why = "until base_model is materialized: its config.json is not available" if world else "see above"
        return Section("Memory", (("not known", why),))
    rows = [(part.name, f"{show_bytes(part.bytes):<24} {part.how}") for part in memory.parts]
    capacity = "" if memory.capacity is None else f" of {show_bytes(Range.exactly(memory.capacity))}"
    rows.append(("together", f"{show_bytes(memory.total)}{capacity}"))
    note = (
        "Ranges go from the least that any implementation keeps for the backward pass to what transformers and PEFT "
        "keep (after Korthikanti et al. 2022, for a frozen base)."
    )
    return Section(f"Memory of {memory.place}", tuple(rows), (note,))


def _graphs(graphs: GraphCacheForecast | None) -> Section:
    title = "Compiled graphs"
    if graphs is None:
        return Section(title, (("not known", "see above"),))
    if graphs.address is None:
        return Section(title, (("not known", "until base_model is materialized: its config is part of the address"),))
    rows = [("hit" if graphs.is_hit else "miss", graphs.address)]
    rows += [(name.replace("_", " "), str(value)) for name, value in graphs.facts.items()]
    rows += [("module", f"{name} {show_bytes(Range.exactly(size))}") for name, size in graphs.modules.items()]
    if graphs.nearest is not None:
        rows.append(("nearest", graphs.nearest))
    rows += [("differs in", difference) for difference in graphs.differences]
    return Section(title, tuple(rows))


def _duration(duration: DurationForecast | None, evaluation: Range | None) -> Section:
    if duration is None:
        return Section("Time and price", (("not known", "see above"),))
    rows = [
        ("compiling", show_seconds(duration.compile_seconds) if duration.compile_seconds else "not estimated"),
        ("training", show_seconds(duration.training_seconds) if duration.training_seconds else "not estimated"),
        ("evaluating", f"{show_seconds(evaluation)} on CPUs, without answers" if evaluation else "not estimated"),
    ]
    if duration.tokens_per_second is not None:
        rows.append(("rate", f"{show_count(duration.tokens_per_second)} tokens/s"))
    if duration.usd_per_hour is not None:
        rows.append(("price", f"${duration.usd_per_hour:,.2f} an hour for all nodes"))
    if duration.usd is not None:
        rows.append(("together", show_usd(duration.usd)))
    notes = (
        f"Rate: {duration.rate_source}.",
        f"Compiling: {duration.compile_source}.",
        f"Price: {duration.price_source}. It does not cover waiting for a node, loading and checkpoints.",
    )
    return Section("Time and price", tuple(rows), notes)


def _artifacts(forecast: Forecast) -> Rows:
    for state in forecast.artifacts:
        address = state.address or f"{state.artifact} (no address yet)"
        yield ("finished" if state.finished else "to make"), address
