"""The facts that are always true in the small world, as questions with one answer each, and lists of its things.

A fact can be told, asked directly and asked indirectly. Stories, which are true only once, belong to stories.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

from tools.demo import nouns, words


@dataclass(frozen=True, slots=True)
class Fact:
    question: str
    wondering: str
    """The question in the form that follows "tell me": no question mark, no capital."""
    answer: str
    """A full sentence that can stand alone in a text."""


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def listing(items: list[str]) -> str:
    """One item, two joined by "and", or more with commas between."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _fact(asked: str, wondering: str, answer: str) -> Fact:
    return Fact(f"{asked[0].upper()}{asked[1:]}?", wondering, sentence(answer))


def _animals() -> Iterator[Fact]:
    for animal in nouns.ANIMALS:
        a = with_article(animal.name)
        yield _fact(f"what does {a} eat", f"what {a} eats", f"{a} eats {animal.food}")
        yield _fact(f"where does {a} live", f"where {a} lives", f"{a} lives {animal.home}")
        yield _fact(f"how many legs does {a} have", f"how many legs {a} has", f"{a} has {animal.legs} legs")
        young = f"a young {animal.name} is called {with_article(animal.young)}"
        yield _fact(f"what is a young {animal.name} called", f"what a young {animal.name} is called", young)
        yield _fact(f"what kind of animal is {a}", f"what kind of animal {a} is", f"{a} is {with_article(animal.kind)}")
        if animal.sound:
            yield _fact(f"what does {a} say", f"what {a} says", f"{a} says {animal.sound}")


def _foods() -> Iterator[Fact]:
    for food in nouns.FOODS:
        a = with_article(food.name)
        yield _fact(f"what colour is {a}", f"what colour {a} is", f"{a} is {food.colour}")
        yield _fact(f"how does {a} taste", f"how {a} tastes", f"{a} tastes {food.taste}")
        yield _fact(f"what kind of food is {a}", f"what kind of food {a} is", f"{a} is {with_article(food.kind)}")


def _things_and_jobs() -> Iterator[Fact]:
    for thing in nouns.THINGS:
        a = with_article(thing.name)
        yield _fact(f"what is {a} for", f"what {a} is for", f"{a} is for {thing.use}")
        yield _fact(f"what kind of thing is {a}", f"what kind of thing {a} is", f"{a} is {with_article(thing.kind)}")
    for job in nouns.JOBS:
        a = with_article(job.name)
        yield _fact(f"what does {a} do", f"what {a} does", f"{a} {job.work}")
        yield _fact(f"who {job.work}", f"who {job.work}", f"{a} {job.work}")
        yield _fact(f"where does {a} work", f"where {a} works", f"{a} works {job.place}")


def _order_and_opposites() -> Iterator[Fact]:
    for pair in words.OPPOSITES:
        for one, other in (pair, reversed(pair)):
            asked = f"what is the opposite of {one}"
            yield _fact(asked, f"what the opposite of {one} is", f"the opposite of {one} is {other}")
    for kind, row in (("day", words.DAYS), ("month", words.MONTHS), ("number", words.NUMBERS)):
        for one, other in pairwise(row):
            after, before = f"what {kind} comes after {one}", f"what {kind} comes before {other}"
            yield _fact(after, after, f"{other} comes after {one}")
            yield _fact(before, before, f"{one} comes before {other}")


def _weather() -> Iterator[Fact]:
    for weather, (clothes, activity) in words.WEATHERS.items():
        day = f"on a {weather} day"
        asked = f"what do people wear {day}"
        yield _fact(asked, f"what people wear {day}", f"{day} people wear {clothes}")
        yield _fact(f"what can people do {day}", f"what people can do {day}", f"{day} people can {activity}")


FACTS = tuple(chain(_animals(), _foods(), _things_and_jobs(), _order_and_opposites(), _weather()))


def _lists() -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for animal in nouns.ANIMALS:
        lists.setdefault(f"{animal.kind}s", []).append(animal.name)
        if animal.legs != "no":
            lists.setdefault(f"animals with {animal.legs} legs", []).append(animal.name)
    for food in nouns.FOODS:
        lists.setdefault(f"{food.kind}s", []).append(food.name)
        lists.setdefault(f"{food.colour} foods", []).append(food.name)
        lists.setdefault(f"{food.taste} foods", []).append(food.name)
    for thing in nouns.THINGS:
        lists.setdefault(f"{thing.kind}s", []).append(thing.name)
    lists |= {"jobs": [job.name for job in nouns.JOBS], "colours": list(words.COLOURS), "games": list(words.GAMES)}
    lists |= {"days": list(words.DAYS), "months": list(words.MONTHS), "places": list(words.PLACES)}
    lists["kinds of weather"] = [f"{weather} weather" for weather in words.WEATHERS]
    return {name: members for name, members in lists.items() if len(members) >= 4}


LISTS = _lists()

KINDS = {
    **{animal.name: animal.kind for animal in nouns.ANIMALS},
    **{food.name: food.kind for food in nouns.FOODS},
    **{thing.name: thing.kind for thing in nouns.THINGS},
}
"""The kind of each creature and object; a classification asks for the kind."""
