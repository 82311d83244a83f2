"""Stories: a few events about two people, with all questions that can be asked about them.

Events belong to events.py; turning stories into documents or instructions belongs to world.py and instructions.py.
"""

import re
from dataclasses import dataclass, replace
from random import Random

from tools.demo.events import MAIN, Answered, Event, Person, feeling, person, setting, trip, work
from tools.demo.facts import listing, with_article


@dataclass(frozen=True, slots=True)
class Story:
    people: tuple[Person, ...]
    events: tuple[Event, ...]

    @property
    def text(self) -> str:
        return " ".join(event.text for event in self.events)

    def plainly(self) -> "Story":
        """The same story, each sentence in the word order of its answers."""
        return replace(self, events=tuple(replace(event, text=event.plain or event.text) for event in self.events))

    @property
    def questions(self) -> tuple[Answered, ...]:
        return tuple(answered for event in self.events for answered in event.questions)

    @property
    def summary(self) -> str:
        """One sentence: the first two deeds of the first person."""
        deeds = [event.deed for event in self.events if event.deed][:2]
        return f"{self.people[0].name} {listing(deeds)}."

    @property
    def extracts(self) -> tuple[Answered, ...]:
        """The lists that can be made from the text; each "question" is a noun phrase such as "the people"."""
        order = re.findall(r"\w+", self.text)
        found = {
            "people": sorted((person.name for person in self.people), key=order.index),
            "things": [with_article(thing) for event in self.events for thing in event.things],
            "animals": [with_article(animal) for event in self.events for animal in event.animals],
        }
        return tuple(
            Answered(f"the {kind}", f"The {kind} in the text are {listing(members)}.")
            for kind, members in found.items()
            if len(members) > 1
        )


def _new_nouns(rng: Random, who: Person, friend: Person, events: list[Event]) -> Event:
    """An event whose nouns are new to the story, so that "the ball" means one ball only."""
    named = {noun for event in events for noun in (*event.things, *event.animals)}
    while True:
        event = rng.choice(MAIN)(rng, who, friend)
        if not named & {*event.things, *event.animals}:
            return event


def _clear(events: list[Event]) -> tuple[Event, ...]:
    """The events, without any question that two of them answer."""
    asked = [answered.question for event in events for answered in event.questions]
    return tuple(
        replace(event, questions=tuple(each for each in event.questions if asked.count(each.question) == 1))
        for event in events
    )


def story(rng: Random) -> Story:
    """Three to five sentences about two people."""
    who = person(rng)
    friend = person(rng, (who,))
    events = [setting(rng)] if rng.random() < 0.4 else []
    events.append(trip(rng, who, friend) if rng.random() < 0.6 else _new_nouns(rng, who, friend, events))
    events.append(_new_nouns(rng, who, friend, events))
    events.append(_new_nouns(rng, friend, who, events))
    if rng.random() < 0.5:
        someone, other = rng.choice(((who, friend), (friend, who)))
        events.append(rng.choice((work, feeling, feeling))(rng, someone, other))
    return Story((who, friend), _clear(events))
