"""Events: one or two sentences each, with the questions that they answer and what a summary keeps.

The answer to a question is a whole sentence that begins like the text, so answering means finding and copying.
Combining events into a story belongs to stories.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tools.demo import nouns, words
from tools.demo.facts import with_article


@dataclass(frozen=True, slots=True)
class Answered:
    """A question about a text, with its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    he: str
    his: str


@dataclass(frozen=True, slots=True)
class Event:
    text: str
    """The event as told in prose, in one of several ways."""
    questions: tuple[Answered, ...]
    deed: str = ""
    """What the person did, without the subject; empty if a summary leaves the event out."""
    things: tuple[str, ...] = ()
    animals: tuple[str, ...] = ()
    feeling: str = ""
    plain: str = ""
    """The same text in the word order of the answers; empty if `text` has that order already."""


def person(rng: Random, other_than: tuple[Person, ...] = ()) -> Person:
    taken = {someone.name for someone in other_than}
    name = rng.choice([name for name in (*words.GIRLS, *words.BOYS) if name not in taken])
    return Person(name, "she", "her") if name in words.GIRLS else Person(name, "he", "his")


def setting(rng: Random) -> Event:
    weather, day, time = rng.choice(list(words.WEATHERS)), rng.choice(words.DAYS), rng.choice(words.TIMES)
    text = rng.choice((f"It was a {weather} {day} {time}.", f"This happened on a {weather} {day} {time}."))
    return Event(
        text,
        (
            Answered("What was the weather like?", f"The weather was {weather}."),
            Answered("What day was it?", f"It was {day}."),
            Answered("What time of day was it?", f"It was {time}."),
        ),
        plain=f"It was {day} {time}. The weather was {weather}.",
    )


def trip(rng: Random, who: Person, friend: Person) -> Event:
    verb, place = rng.choice(("went", "walked", "ran", "drove")), rng.choice(words.PLACES)
    went = f"{verb} to the {place}"
    text = rng.choice((f"{who.name} {went} with {friend.name}.", f"With {friend.name}, {who.name} {went}."))
    return Event(
        text,
        (
            Answered(f"Where did {who.name} go?", f"{who.name} {went}."),
            Answered(f"Who went with {who.name}?", f"{friend.name} went with {who.name}."),
        ),
        deed=went,
        plain=f"{who.name} {went} with {friend.name}.",
    )


# Base form and past tense of the verbs for each kind of noun.
_WITH_THINGS = "find/found lose/lost hide/hid drop/dropped paint/painted wash/washed see/saw forget/forgot"
_WITH_ANIMALS = "see/saw feed/fed meet/met draw/drew follow/followed hear/heard"
_WITH_FOODS = "eat/ate cut/cut share/shared find/found hide/hid drop/dropped"


def _told(rng: Random, who: Person, past: str, what: str, spot: str) -> str:
    return rng.choice(
        (
            f"{who.name} {past} {what} {spot}.",
            f"{who.name} {past} {what} {spot}.",
            f"{spot[0].upper()}{spot[1:]}, {who.name} {past} {what}.",
            f"Then {who.name} {past} {what} {spot}.",
        )
    )


def _deed(rng: Random, who: Person, verbs: str, trait: str, noun: str) -> Event:
    base, past = rng.choice(verbs.split()).split("/")
    what, spot = f"{with_article(trait)} {noun}", rng.choice(words.SPOTS)
    questions = (
        Answered(f"What did {who.name} {base}?", f"{who.name} {past} {what}."),
        Answered(f"Where did {who.name} {base} the {noun}?", f"{who.name} {past} the {noun} {spot}."),
        Answered(f"Who {past} the {noun}?", f"{who.name} {past} the {noun}."),
    )
    text = _told(rng, who, past, what, spot)
    return Event(text, questions, f"{past} {what}", plain=f"{who.name} {past} {what} {spot}.")


def with_thing(rng: Random, who: Person, _: Person) -> Event:
    colour = rng.choice(words.COLOURS)
    noun = rng.choice(nouns.THINGS).name
    event = _deed(rng, who, _WITH_THINGS, colour, noun)
    colour_of = Answered(f"What colour was the {noun}?", f"The {noun} was {colour}.")
    return replace(event, questions=(*event.questions, colour_of), things=(noun,))


def with_animal(rng: Random, who: Person, _: Person) -> Event:
    size, noun = rng.choice(words.SIZES), rng.choice(nouns.ANIMALS).name
    return replace(_deed(rng, who, _WITH_ANIMALS, size, noun), animals=(noun,))


def with_food(rng: Random, who: Person, _: Person) -> Event:
    trait, noun = rng.choice(("big", "small", "fresh", "ripe", "cold")), rng.choice(nouns.FOODS).name
    return replace(_deed(rng, who, _WITH_FOODS, trait, noun), things=(noun,))


def gift(rng: Random, who: Person, friend: Person) -> Event:
    colour, noun = rng.choice(words.COLOURS), rng.choice(nouns.THINGS).name
    deed = f"gave {friend.name} {with_article(colour)} {noun}"
    return Event(
        f"{who.name} {deed}.",
        (
            Answered(f"What did {who.name} give {friend.name}?", f"{who.name} {deed}."),
            Answered(f"Who got the {noun}?", f"{friend.name} got the {noun}."),
            Answered(f"What colour was the {noun}?", f"The {noun} was {colour}."),
        ),
        deed,
        things=(noun,),
    )


def purchase(rng: Random, who: Person, _: Person) -> Event:
    number, plural = rng.choice(words.NUMBERS[1:12]), rng.choice(nouns.FOODS).plural
    base, past = rng.choice(("buy/bought", "pick/picked", "count/counted", "sell/sold")).split("/")
    asked = f"How many {plural} did {who.name} {base}?"
    deed = f"{past} {number} {plural}"
    answers = (Answered(asked, f"{who.name} {deed}."), Answered(f"What did {who.name} {base}?", f"{who.name} {deed}."))
    return Event(f"{who.name} {deed}.", answers, deed)


def pet(rng: Random, who: Person, _: Person) -> Event:
    size, animal, name = rng.choice(words.SIZES), rng.choice(nouns.ANIMALS).name, rng.choice(words.PET_NAMES)
    had = f"had {with_article(size)} {animal}"
    questions = (
        Answered(f"What was the {animal} called?", f"The {animal} was called {name}."),
        Answered(f"Who was {name}?", f"{name} was {with_article(size)} {animal}."),
    )
    return Event(f"{who.name} {had} called {name}.", questions, had, animals=(animal,))


def game(rng: Random, who: Person, friend: Person) -> Event:
    played = f"played {rng.choice(words.GAMES)} with {friend.name}"
    asked = f"What did {who.name} play with {friend.name}?"
    return Event(f"{who.name} {played}.", (Answered(asked, f"{who.name} {played}."),), played)


def work(rng: Random, who: Person, _: Person) -> Event:
    job = with_article(rng.choice(nouns.JOBS).name)
    text = rng.choice((f"{who.name} was {job}.", f"{who.name} worked as {job}."))
    return Event(text, (Answered(f"What was the job of {who.name}?", f"{who.name} was {job}."),))


def feeling(rng: Random, who: Person, _: Person) -> Event:
    mood = rng.choice(list(words.FEELINGS))
    cause = rng.choice(words.FEELINGS[mood])
    because = f"{who.name} was {mood} because {who.he} {cause}."
    text = rng.choice((because, f"{who.name} {cause}, and so {who.he} was {mood}."))
    questions = (
        Answered(f"How did {who.name} feel?", f"{who.name} felt {mood}."),
        Answered(f"Why was {who.name} {mood}?", f"{who.name} was {mood} because {who.he} {cause}."),
    )
    return Event(text, questions, feeling=mood, plain=because)


MAIN: tuple[Callable[[Random, Person, Person], Event], ...] = (
    with_thing, with_thing, with_thing, with_animal, with_animal, with_food, gift, purchase, pet, game,
)  # fmt: skip
"""Events that a summary may name; frequent ones are listed more than once."""
