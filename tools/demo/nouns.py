"""The creatures, foods, objects and jobs of the small world, with the facts about each.

This module holds only tables. The order of a table is the order in which the world lists its members, so a model can
learn the list. Turning tables into facts belongs to facts.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Animal:
    name: str
    kind: str
    sound: str
    """The sound that it makes; empty for silent animals."""
    food: str
    home: str
    legs: str
    young: str


@dataclass(frozen=True, slots=True)
class Food:
    name: str
    plural: str
    kind: str
    colour: str
    taste: str


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    kind: str
    use: str


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    work: str
    """Third person: a baker "bakes bread"."""
    place: str


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


ANIMALS = tuple(
    Animal(*row)
    for row in _rows("""
    cow      | farm animal | moo     | grass    | on a farm        | four | calf
    sheep    | farm animal | baa     | grass    | in a field       | four | lamb
    pig      | farm animal | oink    | turnips  | in a sty         | four | piglet
    horse    | farm animal | neigh   | hay      | in a stable      | four | foal
    goat     | farm animal | maa     | leaves   | on a hill        | four | kid
    donkey   | farm animal | hee-haw | thistles | in a barn        | four | foal
    hen      | bird        | cluck   | seeds    | in a coop        | two  | chick
    duck     | bird        | quack   | weeds    | on a pond        | two  | duckling
    goose    | bird        | honk    | grass    | on a lake        | two  | gosling
    owl      | bird        | hoot    | mice     | in a hollow tree | two  | owlet
    robin    | bird        | tweet   | worms    | in a nest        | two  | chick
    crow     | bird        | caw     | corn     | in a tall tree   | two  | chick
    parrot   | bird        | squawk  | nuts     | in a jungle      | two  | chick
    pigeon   | bird        | coo     | crumbs   | on a roof        | two  | chick
    penguin  | bird        | honk    | fish     | on the ice       | two  | chick
    bee      | insect      | buzz    | nectar   | in a hive        | six  | grub
    ant      | insect      |         | crumbs   | in an anthill    | six  | grub
    cricket  | insect      | chirp   | leaves   | in a meadow      | six  | nymph
    beetle   | insect      |         | wood     | under a log      | six  | grub
    dog      | pet         | woof    | bones    | in a kennel      | four | puppy
    cat      | pet         | meow    | fish     | in a house       | four | kitten
    rabbit   | pet         |         | carrots  | in a hutch       | four | bunny
    hamster  | pet         | squeak  | seeds    | in a cage        | four | pup
    bear     | wild animal | growl   | honey    | in a cave        | four | cub
    lion     | wild animal | roar    | meat     | on the plain     | four | cub
    wolf     | wild animal | howl    | meat     | in a forest      | four | cub
    fox      | wild animal | yap     | berries  | in a den         | four | cub
    frog     | wild animal | croak   | flies    | by a pond        | four | tadpole
    snake    | wild animal | hiss    | eggs     | under a rock     | no   | hatchling
    monkey   | wild animal | hoo-hoo | bananas  | in a jungle      | four | baby
    elephant | wild animal | toot    | bark     | on the plain     | four | calf
    squirrel | wild animal | chatter | nuts     | in an oak tree   | four | kit
    badger   | wild animal | growl   | worms    | in a burrow      | four | cub
    mouse    | wild animal | squeak  | cheese   | in a hole        | four | pup
    deer     | wild animal |         | leaves   | in a forest      | four | fawn
    camel    | wild animal | grunt   | thorns   | in a desert      | four | calf
    seal     | wild animal | arf     | fish     | on a beach       | no   | pup
    hedgehog | wild animal | snuffle | slugs    | under a hedge    | four | hoglet
    """)
)

FOODS = tuple(
    Food(*row)
    for row in _rows("""
    apple      | apples       | fruit     | red    | sweet
    pear       | pears        | fruit     | green  | sweet
    plum       | plums        | fruit     | purple | sweet
    banana     | bananas      | fruit     | yellow | sweet
    lemon      | lemons       | fruit     | yellow | sour
    cherry     | cherries     | fruit     | red    | sweet
    grape      | grapes       | fruit     | green  | sweet
    lime       | limes        | fruit     | green  | sour
    strawberry | strawberries | fruit     | red    | sweet
    raspberry  | raspberries | fruit    | pink   | sour
    peach      | peaches      | fruit     | pink   | sweet
    carrot     | carrots      | vegetable | orange | mild
    potato     | potatoes     | vegetable | brown  | mild
    onion      | onions       | vegetable | white  | sharp
    leek       | leeks        | vegetable | green  | sharp
    pea        | peas         | vegetable | green  | sweet
    radish     | radishes     | vegetable | red    | hot
    pumpkin    | pumpkins     | vegetable | orange | mild
    cabbage    | cabbages     | vegetable | green  | mild
    turnip     | turnips      | vegetable | white  | sharp
    bean       | beans        | vegetable | green  | mild
    bun        | buns         | baked food | brown | sweet
    pie        | pies         | baked food | brown | sweet
    biscuit    | biscuits   | baked food | brown | sweet
    pretzel    | pretzels   | baked food | brown | salty
    roll       | rolls      | baked food | white | mild
    cracker    | crackers     | baked food | yellow | salty
    waffle     | waffles    | baked food | golden | sweet
    """)
)

THINGS = tuple(
    Thing(*row)
    for row in _rows("""
    kite     | toy     | flying in the wind
    ball     | toy     | playing catch
    drum     | toy     | making music
    doll     | toy     | playing house
    robot    | toy     | playing space games
    puppet   | toy     | putting on a show
    whistle  | toy     | calling friends
    yo-yo    | toy     | doing tricks
    hammer   | tool    | hitting nails
    saw      | tool    | cutting wood
    spade    | tool    | digging holes
    brush    | tool    | painting walls
    ladder   | tool    | climbing up high
    rope     | tool    | tying boats
    rake     | tool    | gathering leaves
    hat      | garment | keeping the head warm
    scarf    | garment | keeping the neck warm
    coat     | garment | going out in the cold
    glove    | garment | keeping a hand warm
    boot     | garment | walking in the mud
    sock     | garment | keeping a foot warm
    dress    | garment | going to a party
    cup      | kitchen tool | drinking tea
    spoon    | kitchen tool | eating soup
    pan      | kitchen tool | frying eggs
    jug      | kitchen tool | pouring milk
    kettle   | kitchen tool | boiling water
    bowl     | kitchen tool | mixing dough
    book     | household thing | reading stories
    lamp     | household thing | lighting a room
    key      | household thing | opening a door
    clock    | household thing | telling the time
    mirror   | household thing | seeing yourself
    pillow   | household thing | resting the head
    candle   | household thing | giving light
    map      | household thing | finding the way
    basket   | household thing | carrying shopping
    umbrella | household thing | staying dry in the rain
    pencil   | household thing | writing letters
    """)
)

JOBS = tuple(
    Job(*row)
    for row in _rows("""
    baker      | bakes bread           | in a bakery
    farmer     | grows corn            | on a farm
    teacher    | teaches children      | in a school
    doctor     | helps sick people     | in a hospital
    vet        | helps sick animals    | in a clinic
    gardener   | plants flowers        | in a garden
    pilot      | flies planes          | at an airport
    sailor     | sails ships           | at sea
    fisher     | catches fish          | on a lake
    builder    | builds houses         | on a building site
    tailor     | sews clothes          | in a small shop
    cook       | makes meals           | in a kitchen
    painter    | paints pictures       | in a studio
    miller     | grinds grain          | in a mill
    potter     | makes pots            | in a workshop
    shepherd   | looks after sheep     | on a hill
    librarian  | lends books           | in a library
    firefighter | puts out fires       | at a fire station
    driver     | drives a bus          | in the town
    singer     | sings songs           | on a stage
    beekeeper  | looks after bees      | in an orchard
    miner      | digs for coal         | in a mine
    """)
)
