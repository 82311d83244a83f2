"""The words of the small world besides its nouns: names, colours, places, times, opposites, feelings.

This module holds only tables. Turning them into facts, stories and documents belongs to facts.py, events.py and
world.py.
"""


def _words(row: str) -> list[str]:
    """The row split at its bars, or at its spaces if it has no bar."""
    return row.split("|") if "|" in row else row.split()


GIRLS = _words(
    "Mia Anna Lucy Rosa Ella Nina Clara Ruth Ivy Emma Nora Grace Lily Zoe Alice Maya Tara Hanna Eva Olga Fatima Mei "
    "Priya Sara"
)
BOYS = _words(
    "Tom Ben Sam Leo Max Jack Omar Finn Noah Hugo Paul Ali Ravi Carl Dan Eric Felix Ivan Luis Peter Adam Oscar Kofi Jon"
)
PET_NAMES = _words("Pip Fluff Rusty Dot Socks Bella Biscuit Shadow Patch Coco Bubbles Ginger Pepper Buddy Misty Rex")

COLOURS = _words("red blue green yellow purple orange brown black white pink grey golden")
SIZES = _words("small big little huge young old")
PLACES = _words(
    "park beach forest farm market school library river hill garden zoo village harbour station lake meadow castle "
    "museum playground barn mill island orchard town"
)
SPOTS = _words(
    "under the bench|behind the tree|near the gate|on the wall|beside the path|in the tall grass|next to the well|"
    "by the pond|under the bridge|behind the shed|on the steps|near the fountain|under a bush|on a flat rock|"
    "beside the fence|in front of the house|at the corner|by the old oak"
)
WEATHERS = {
    "sunny": ("a sun hat", "swim in the lake"),
    "rainy": ("a raincoat", "jump in puddles"),
    "windy": ("a thick coat", "fly a kite"),
    "snowy": ("warm boots", "build a snowman"),
    "foggy": ("a bright jacket", "stay close to home"),
    "cloudy": ("a light coat", "go for a walk"),
    "frosty": ("woollen gloves", "slide on the ice"),
    "stormy": ("dry clothes", "read by the fire"),
}
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("January February March April May June July August September October November December")
TIMES = ("morning", "afternoon", "evening")
NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
GAMES = _words("tag|chess|catch|cards|football|marbles|dominoes|hopscotch|hide and seek")
OPPOSITES = tuple(
    pair.split("/")
    for pair in _words(
        "hot/cold big/small up/down day/night wet/dry fast/slow high/low open/shut full/empty hard/soft light/dark "
        "loud/quiet long/short new/old thick/thin near/far rich/poor clean/dirty early/late left/right"
    )
)

FEELINGS = {
    "happy": ("won the race", "got a birthday present", "met an old friend", "heard a funny joke"),
    "sad": ("broke a toy", "missed the last bus", "had to say goodbye", "could not find the way home"),
    "scared": ("heard a loud bang", "saw a ghost", "got lost in the dark", "met a big snake"),
    "tired": ("walked all day", "worked all night", "carried heavy stones", "climbed a steep hill"),
    "proud": ("learned to swim", "read a whole book alone", "fixed the broken door", "sang for the whole town"),
    "angry": ("was pushed in the queue", "was told a lie", "found the window smashed", "was left out of the game"),
    "hungry": ("had no breakfast", "forgot the packed lunch", "smelled fresh bread", "had not eaten since noon"),
}
"""Each feeling with its causes; a cause belongs to only one feeling, so the cause determines the feeling."""
