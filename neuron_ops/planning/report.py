"""A forecast as text for a terminal, as Markdown for the UI, and as JSON for programs.

Text and Markdown show the same sections; nothing is computed here.
"""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict

from neuron_ops.planning.forecast import Forecast, Problem
from neuron_ops.planning.sections import Section, sections

WIDTH = 118
LABEL = 20


def to_json(forecast: Forecast) -> str:
    """All numbers; a range is {low, high}."""
    return json.dumps({"go": forecast.is_go, **asdict(forecast)}, indent=2, ensure_ascii=False)


def to_text(forecast: Forecast) -> str:
    """Problems first, then the sections, aligned."""
    blocks = [verdict(forecast)]
    if forecast.problems:
        blocks.append("\n".join(_wrapped(f"  {_kind(problem)}", problem.text) for problem in forecast.problems))
    blocks += ["\n".join(_section_text(section)) for section in sections(forecast)]
    return "\n\n".join(blocks)


def to_markdown(forecast: Forecast) -> str:
    """The same content as headings, lists and tables."""
    blocks = [f"**{verdict(forecast)}**"]
    if forecast.problems:
        blocks.append("\n".join(f"- **{_kind(problem)}** {problem.text}" for problem in forecast.problems))
    for section in sections(forecast):
        blocks += [f"#### {section.title}", _table(section)] + [f"*{note}*" for note in section.notes]
    return "\n\n".join(blocks) + "\n"


def verdict(forecast: Forecast) -> str:
    """The verdict in one line."""
    count = len(forecast.refusals)
    reason = "" if forecast.is_go else f": {count} problem{'s' * (count > 1)} to solve first"
    return f"{'GO' if forecast.is_go else 'NO-GO'}  {forecast.dataset_version} with {forecast.recipe}{reason}"


def _kind(problem: Problem) -> str:
    return "stops" if problem.blocking else "note"


def _section_text(section: Section) -> Iterator[str]:
    yield section.title
    for label, value in section.rows:
        yield _wrapped(f"  {label}", value)
    for note in section.notes:
        yield textwrap.fill(note, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _wrapped(label: str, value: str) -> str:
    indent = " " * (LABEL + 2)
    # Addresses are never broken, so that people can copy them.
    return textwrap.fill(
        value,
        WIDTH,
        initial_indent=f"{label:<{LABEL + 1}} ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(section: Section) -> str:
    rows = [f"| {label} | {value.replace('|', chr(92) + '|')} |" for label, value in section.rows]
    return "\n".join(["| | |", "|---|---|", *rows])
