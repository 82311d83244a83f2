"""Instruction datasets about the small world, in the columns of databricks-dolly-15k.

The rows are tasks of six categories with their answers. The content of the world belongs to the other modules; turning
a row into a conversation belongs to the platform.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

from tools.demo import words
from tools.demo.events import person
from tools.demo.facts import FACTS, LISTS, sentence
from tools.demo.stories import story
from tools.demo.world import run_of, which_kind, which_one


@dataclass(frozen=True, slots=True)
class Row:
    instruction: str
    context: str
    response: str
    category: str

    @property
    def task(self) -> tuple[str, str]:
        """The identity of a row: no two rows of a dataset, or of two versions, share it."""
        return self.instruction, self.context

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def closed_qa(rng: Random) -> Row:
    told = story(rng).plainly()
    answered = rng.choice(told.questions)
    instruction = rng.choice(
        ("{}", "{}", "Read the text and answer. {}", "Answer from the text. {}", "{} Look in the text.")
    )
    return Row(instruction.format(answered.question), told.text, answered.answer, "closed_qa")


def information_extraction(rng: Random) -> Row:
    told = story(rng).plainly()
    extract = rng.choice(told.extracts)
    instruction = rng.choice(
        ("List {} in the text.", "Name {} in the text.", "Find {} in the text.", "Which are {} in the text?")
    )
    return Row(instruction.format(extract.question), told.text, extract.answer, "information_extraction")


def summarization(rng: Random) -> Row:
    told = story(rng).plainly()
    instruction = rng.choice(
        (
            "Sum up the text in one sentence.",
            "What happened, in short?",
            "Give a short summary of the text.",
            f"In one sentence, what did {told.people[0].name} do?",
        )
    )
    return Row(instruction, told.text, told.summary, "summarization")


def _feeling(rng: Random) -> Row:
    who = person(rng)
    mood, wrong = rng.sample(list(words.FEELINGS), 2)
    first, second = rng.choice(((mood, wrong), (wrong, mood)))
    context = f"{who.name} {rng.choice(words.FEELINGS[mood])}."
    return Row(f"Was {who.name} {first} or {second}?", context, f"{who.name} was {mood}.", "classification")


def classification(rng: Random) -> Row:
    if rng.random() < 0.3:
        return _feeling(rng)
    answered = rng.choice((which_kind, which_one))(rng)
    return Row(answered.question, "", answered.answer, "classification")


def open_qa(rng: Random) -> Row:
    fact = rng.choice(FACTS)
    instruction = rng.choice(
        (
            fact.question,
            fact.question,
            f"Tell me {fact.wondering}.",
            f"Please tell me {fact.wondering}.",
            f"Do you know {fact.wondering}?",
            f"{person(rng).name} wants to know {fact.wondering}.",
        )
    )
    return Row(instruction, "", fact.answer, "open_qa")


def brainstorming(rng: Random) -> Row:
    number, name = rng.choice(("two", "three", "four")), rng.choice(list(LISTS))
    instruction = rng.choice(
        (
            f"Name {number} {name}.",
            f"List {number} {name}.",
            f"Can you think of {number} {name}?",
            f"{person(rng).name} has to name {number} {name}.",
        )
    )
    members = run_of(rng, name, words.NUMBERS.index(number) + 1)
    return Row(instruction, "", f"{sentence(number)[:-1]} {name} are {members}.", "brainstorming")


# The number of rows of each category in a hundred rows.
CATEGORIES: dict[Callable[[Random], Row], int] = {
    closed_qa: 38,
    open_qa: 20,
    classification: 14,
    summarization: 10,
    information_extraction: 8,
    brainstorming: 10,
}


@dataclass(frozen=True, slots=True)
class Version:
    """A dataset version that ships with the demo."""

    name: str
    seed: int
    num_rows: int


VERSIONS = (Version("demo-v1", seed=1, num_rows=3000), Version("demo-v2", seed=2, num_rows=1500))


def rows(version: Version) -> list[Row]:
    """The version's rows: unique, and different from all rows of earlier versions."""
    earlier = [row for other in VERSIONS[: VERSIONS.index(version)] for row in rows(other)]
    taken = {row.task for row in earlier}
    rng = Random(version.seed)
    chosen: list[Row] = []
    while len(chosen) < version.num_rows:
        row = rng.choices(list(CATEGORIES), list(CATEGORIES.values()))[0](rng)
        if row.task not in taken:
            taken.add(row.task)
            chosen.append(row)
    return chosen
