"""Endless documents of plain prose about the small world: the pretraining text of the demo's base model.

The documents are stories, talk about stories, talk about facts, and lists. They contain no chat turn and no task:
fine-tuning teaches those, and they belong to instructions.py.
"""

from collections.abc import Callable, Iterator
from random import Random

from tools.demo import words
from tools.demo.events import Answered, Person, feeling, person
from tools.demo.facts import FACTS, KINDS, LISTS, listing, sentence, with_article
from tools.demo.stories import story


def _opened(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def said(rng: Random, answer: str, speaker: str) -> str:
    """The answer as the speaker's direct speech."""
    verb = rng.choice(("said", "answered", "replied"))
    return rng.choice((f'"{answer[:-1]}," {verb} {speaker}.', f'{_opened(speaker)} {verb}, "{answer}"'))


def asked(rng: Random, question: str, speaker: str) -> str:
    return rng.choice((f'"{question}" asked {speaker}.', f'{_opened(speaker)} asked, "{question}"'))


def _speakers(rng: Random, *others: Person) -> tuple[str, str]:
    one = person(rng, others)
    other = person(rng, (one, *others))
    return one.name, rng.choice((other.name, other.name, "the teacher", f"{one.his} mother", f"{one.his} father"))


def _exchange(rng: Random, answered: Answered, one: str, other: str) -> str:
    return f"{asked(rng, answered.question, one)} {said(rng, answered.answer, other)}"


def told_story(rng: Random) -> str:
    """A story, sometimes with its summary at the end."""
    told = story(rng)
    ending = rng.choice(("In short, ", "That was the day when ", "To sum up, ", "All in all, ", "This is how "))
    return f"{told.text} {ending}{told.summary}" if rng.random() < 0.7 else told.text


def retold_story(rng: Random) -> str:
    """A story told twice on request: the simplest exercise in copying."""
    told = story(rng)
    one, other = _speakers(rng, *told.people)
    again = rng.choice(
        (f'"Tell it again," said {one}.', f"{_opened(other)} told it once more.", f"{one} read it again.")
    )
    return f"{told.text} {again} {told.text}"


def questioned_story(rng: Random) -> str:
    """A story and then questions about it."""
    told = story(rng)
    one, other = _speakers(rng, *told.people)
    chosen = rng.sample(told.questions, min(len(told.questions), rng.randint(2, 4)))
    talk = [_exchange(rng, answered, one, other) for answered in chosen]
    opening = rng.choice(("", f"{one} had heard the story. ", f"Then {one} had questions. "))
    return f"{told.text} {opening}{' '.join(talk)}"


def awaited_story(rng: Random) -> str:
    """A question, then the story that answers it, then the answer."""
    told = story(rng)
    one, other = _speakers(rng, *told.people)
    answered = rng.choice(told.questions)
    opening = rng.choice(("", f"So {other} told the story. ", f"To find out, {one} read this. "))
    return f"{asked(rng, answered.question, one)} {opening}{told.text} {said(rng, answered.answer, other)}"


def extracted_story(rng: Random) -> str:
    """A story with a request before or after it for the people, things or animals in it."""
    told = story(rng)
    one, other = _speakers(rng, *told.people)
    extract = rng.choice(told.extracts)
    request = rng.choice(
        (f"{one} looked for {extract.question} in the text.", f"{one} wanted to know {extract.question} in the text.")
    )
    before, after = rng.choice(((f"{request} ", ""), ("", f" {request}")))
    return f"{before}{told.text}{after} {said(rng, extract.answer, other)}"


def summarised_story(rng: Random) -> str:
    told = story(rng)
    one, other = _speakers(rng, *told.people)
    request = rng.choice((f"{one} asked what happened, in short.", f"{one} wanted to hear it in one sentence."))
    before, after = rng.choice(((f"{request} ", ""), ("", f" {request}")))
    return f"{before}{told.text}{after} {said(rng, told.summary, other)}"


def guessed_feeling(rng: Random) -> str:
    """Something that happened to a person, and the person's feeling."""
    who = person(rng)
    one, other = _speakers(rng, who)
    event = feeling(rng, who, who)
    cause = rng.choice(words.FEELINGS[event.feeling])
    wrong = rng.choice([mood for mood in words.FEELINGS if mood != event.feeling])
    moods = rng.choice(((event.feeling, wrong), (wrong, event.feeling)))
    question = rng.choice((f"Was {who.name} {moods[0]} or {moods[1]}?", f"How did {who.name} feel?"))
    answer = f"{who.name} felt {event.feeling}." if "feel" in question else f"{who.name} was {event.feeling}."
    return f"{who.name} {cause}. {_exchange(rng, Answered(question, answer), one, other)} {event.text}"


def stated_facts(rng: Random) -> str:
    """A few facts in a row, from one corner of the world."""
    start = rng.randrange(len(FACTS) - 12)
    chosen = rng.sample(FACTS[start : start + 12], rng.randint(3, 6))
    return " ".join(fact.answer for fact in chosen)


def discussed_facts(rng: Random) -> str:
    """Facts asked for, directly and indirectly, and told."""
    one, other = _speakers(rng)
    lines = []
    for fact in rng.sample(FACTS, rng.randint(2, 5)):
        wondering = rng.choice((f"{one} wanted to know {fact.wondering}.", f"{one} wondered {fact.wondering}."))
        request = rng.choice((asked(rng, fact.question, one), wondering, f'"Tell me {fact.wondering}," said {one}.'))
        lines.append(f"{request} {said(rng, fact.answer, other)}")
    return " ".join(lines)


def run_of(rng: Random, name: str, count: int) -> str:
    """`count` members of a list, in the world's order, from a random start."""
    members = LISTS[name]
    start = rng.randrange(len(members))
    return listing((members * 2)[start : start + count])


def listed(rng: Random) -> str:
    """Lists that somebody makes or asks for."""
    one, other = _speakers(rng)
    lines = []
    for name in rng.sample(list(LISTS), rng.randint(2, 4)):
        number = rng.choice(("two", "three", "four"))
        answer = f"{sentence(number)[:-1]} {name} are {run_of(rng, name, words.NUMBERS.index(number) + 1)}."
        request = rng.choice((f"{one} had to name {number} {name}.", f"{one} asked for {number} {name}.", ""))
        lines.append(f"{request} {said(rng, answer, other)}" if request else answer)
    return " ".join(lines)


def which_kind(rng: Random) -> Answered:
    """A question whether a noun is of one kind or another."""
    noun = rng.choice(list(KINDS))
    wrong = rng.choice([kind for kind in LISTS if kind[:-1] in KINDS.values() and kind[:-1] != KINDS[noun]])[:-1]
    first, second = rng.choice(((KINDS[noun], wrong), (wrong, KINDS[noun])))
    question = f"Is {with_article(noun)} {with_article(first)} or {with_article(second)}?"
    return Answered(question, f"{sentence(with_article(noun))[:-1]} is {with_article(KINDS[noun])}.")


def which_one(rng: Random) -> Answered:
    """A question which of three nouns is of a given kind."""
    noun = rng.choice(list(KINDS))
    wrong = rng.sample([other for other in KINDS if KINDS[other] != KINDS[noun]], 2)
    three = rng.sample([noun, *wrong], 3)
    question = f"Which one is {with_article(KINDS[noun])}: {three[0]}, {three[1]} or {three[2]}?"
    return Answered(question, f"The {noun} is {with_article(KINDS[noun])}.")


def sorted_out(rng: Random) -> str:
    """Talk about the kinds of things."""
    one, other = _speakers(rng)
    return " ".join(_exchange(rng, rng.choice((which_kind, which_one))(rng), one, other) for _ in range(3))


# The relative frequency of each kind of document; the model must be best at answering from a text.
DOCUMENTS: dict[Callable[[Random], str], int] = {
    told_story: 5,
    retold_story: 6,
    questioned_story: 24,
    awaited_story: 15,
    extracted_story: 6,
    summarised_story: 8,
    guessed_feeling: 4,
    stated_facts: 6,
    discussed_facts: 12,
    listed: 6,
    sorted_out: 8,
}


def documents(seed: int) -> Iterator[str]:
    """Endless documents; the same seed gives the same documents."""
    rng = Random(seed)
    kinds, weights = list(DOCUMENTS), list(DOCUMENTS.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)
