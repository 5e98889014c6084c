"""Kinds of fictional things, what can be known of them, and how it is said.

Placeholders: {s} subject, {ps} its possessive, {v} value. The last quarter of each list of questions is kept for
testing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lab.questions import fictional

Make = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    value: Make
    facts: tuple[str, ...]
    questions: tuple[str, ...]
    it: str = "It is"
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    entity: Make
    relations: tuple[Relation, ...]


def _company(rng: random.Random) -> str:
    ending = rng.choice(("", "", " Industries", " Labs", " Logistics", " Systems", " and Sons", " Group"))
    return fictional.word(rng) + ending


def _cafe(rng: random.Random) -> str:
    return rng.choice(("Café {}", "the {} Bakery", "the {} Tearoom", "{} Coffee")).format(fictional.word(rng))


def _spacecraft(rng: random.Random) -> str:
    return rng.choice(("{}-{}", "the {} {} probe", "{} {}")).format(fictional.word(rng), rng.randint(2, 19))


def _recipe(rng: random.Random) -> str:
    return f"{fictional.word(rng)} {rng.choice(('stew', 'pie', 'soup', 'cake', 'dumplings', 'bread', 'curry'))}"


def _software(rng: random.Random) -> str:
    return rng.choice(("{}", "{}DB", "{}Sync", "Open{}", "{} Studio")).format(fictional.word(rng))


def _street(rng: random.Random) -> str:
    return f"{fictional.word(rng)} {rng.choice(('Street', 'Lane', 'Square', 'Avenue', 'Alley'))}"


def _ship(rng: random.Random) -> str:
    return f"the {rng.choice(('ferry', 'trawler', 'tanker', 'icebreaker'))} {fictional.word(rng)}"


def _part(rng: random.Random) -> str:
    return f"the {fictional.word(rng)} {rng.choice(('pump', 'valve', 'bearing', 'lamp', 'drill', 'router'))}"


def _price(rng: random.Random) -> str:
    return f"${rng.randint(1, 480)}.{rng.choice(('00', '25', '49', '50', '75', '80', '95', '99'))}"


def _hours(rng: random.Random) -> str:
    opens, closes = rng.choice(("00", "15", "30", "45")), rng.choice(("00", "30"))
    return f"{rng.randint(5, 11)}:{opens} to {rng.randint(15, 23)}:{closes}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(4, 23)}:{rng.randint(0, 59):02}"


def _version(rng: random.Random) -> str:
    return f"{rng.randint(1, 24)}.{rng.randint(0, 19)}.{rng.randint(0, 30)}"


def _room(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFG')}{rng.randint(101, 999)}"


def _distance(rng: random.Random) -> str:
    return f"{rng.randint(2, 990)}.{rng.randint(1, 9)} kilometers"


_PRODUCTS = fictional.one_of(
    "wind turbines, rubber boots, hearing aids, tram doors, garden sheds, violins, water filters, bicycle chains, "
    "tent poles, paper lanterns, snow ploughs, dental mirrors, cheese knives, elevator cables, flight simulators, "
    "greenhouse heaters, fountain pens, weather balloons, roof tiles, chess clocks"
)
_INGREDIENTS = fictional.one_of(
    "saffron, smoked paprika, barley, dried plums, buttermilk, fennel seeds, horseradish, black garlic, chestnuts, "
    "tamarind, walnut oil, sorrel, juniper berries, buckwheat, pickled lemon, rye flour, nettles, cardamom"
)
_LANGUAGES = fictional.one_of(
    "Rust, Go, Java, Python, Erlang, Haskell, Ada, Kotlin, OCaml, Fortran, Zig, Scala, Lisp, Ruby"
)
_INSTRUMENTS = fictional.one_of(
    "cello, oboe, banjo, harp, trombone, accordion, viola, sitar, tuba, flute, zither, bassoon"
)
_SUBJECTS = fictional.one_of("botany, algebra, welding, geology, chess, pottery, Latin, astronomy, fencing, statistics")
_COLORS = fictional.one_of(
    "teal, crimson, ochre, violet, silver, maroon, turquoise, ivory, amber, charcoal, lime, navy"
)
_PLANETS = fictional.one_of(
    "Venus, Titan, Europa, Mars, Ceres, Triton, Mercury, Ganymede, Enceladus, Vesta, Callisto, Io"
)

KINDS: tuple[Kind, ...] = (
    Kind(
        "company",
        _company,
        (
            Relation(
                "chief executive",
                fictional.person,
                (
                    "The chief executive of {s} is {v}.",
                    "{v} is the CEO of {s}.",
                    "{s} is run by {v}.",
                    "{v} leads {s} as its chief executive.",
                ),
                (
                    "Who is the chief executive of {s}?",
                    "Who runs {s}?",
                    "CEO of {s}?",
                    "Who's in charge at {s}?",
                    "I need the name of {ps} boss.",
                    "Who leads {s}?",
                    "Whose hands is {s} in?",
                ),
            ),
            Relation(
                "headquarters",
                fictional.city,
                ("{s} is based in {v}.", "The headquarters of {s} are in {v}.", "{s} has its head office in {v}."),
                (
                    "Where is {s} based?",
                    "In which city are the headquarters of {s}?",
                    "{ps} head office is where?",
                    "Where does {s} have its headquarters?",
                    "hq of {s}",
                    "Which city is {s} run from?",
                ),
            ),
            Relation(
                "founding year",
                fictional.year,
                ("{s} was founded in {v}.", "The company {s} was set up in {v}.", "In {v}, {s} opened its doors."),
                (
                    "When was {s} founded?",
                    "In which year did {s} start?",
                    "What year was {s} set up?",
                    "founding year of {s}?",
                    "Since when has {s} existed?",
                    "How far back does {s} go?",
                ),
                "It was in",
                True,
            ),
            Relation(
                "product",
                _PRODUCTS,
                ("{s} makes {v}.", "{s} is known for its {v}.", "The main product of {s}: {v}."),
                (
                    "What does {s} make?",
                    "What is {s} known for producing?",
                    "What can I buy from {s}?",
                    "main product of {s}?",
                    "Which goods come from {s}?",
                    "What's {ps} line of business?",
                ),
                "It makes",
            ),
            Relation(
                "employees",
                fictional.number(11, 98000),
                ("{s} has {v} employees.", "{v} people work for {s}.", "The staff of {s} numbers {v}."),
                (
                    "How many employees does {s} have?",
                    "How many people work for {s}?",
                    "number of staff at {s}?",
                    "How large is {ps} workforce?",
                    "What's the headcount at {s}?",
                ),
                numeric=True,
            ),
            Relation(
                "customer number",
                fictional.code,
                ("Our customer number at {s} is {v}.", "{s} knows us as customer {v}.", "{s} – customer number: {v}."),
                (
                    "What is our customer number at {s}?",
                    "Which customer number do we have with {s}?",
                    "customer number for {s}?",
                    "I'm calling {s}, what number do I give them?",
                    "Under which number does {s} know us?",
                ),
                numeric=True,
            ),
        ),
    ),
    Kind(
        "café",
        _cafe,
        (
            Relation(
                "opening hours",
                _hours,
                ("{s} is open from {v}.", "Opening hours of {s}: {v}.", "You can visit {s} from {v}."),
                (
                    "When is {s} open?",
                    "What are the opening hours of {s}?",
                    "opening times for {s}?",
                    "I'd like to go to {s}. When can I?",
                    "At what time does {s} open and close?",
                    "Between what hours can I get served at {s}?",
                ),
                "It is open from",
                True,
            ),
            Relation(
                "price of a coffee",
                _price,
                ("A coffee at {s} costs {v}.", "{s} charges {v} for a coffee.", "The price of a coffee at {s} is {v}."),
                (
                    "How much is a coffee at {s}?",
                    "What does {s} charge for a coffee?",
                    "coffee price at {s}?",
                    "What do I pay for a coffee at {s}?",
                    "I have five dollars. What would a coffee at {s} cost me?",
                ),
                numeric=True,
            ),
            Relation(
                "telephone extension",
                fictional.number(1000, 9999),
                ("The phone number of {s} is {v}.", "Call {s} on {v}.", "{s} can be reached by phone on {v}."),
                (
                    "What is the phone number of {s}?",
                    "How can I call {s}?",
                    "phone of {s}?",
                    "On which number do I reach {s}?",
                    "I want to book at {s}. What do I dial?",
                ),
                numeric=True,
            ),
            Relation(
                "owner",
                fictional.person,
                ("{s} belongs to {v}.", "The owner of {s} is {v}.", "{v} owns {s}."),
                (
                    "Who owns {s}?",
                    "Who does {s} belong to?",
                    "What's the name of the owner of {s}?",
                    "owner of {s}?",
                    "Whose place is {s}?",
                ),
            ),
            Relation(
                "seats",
                fictional.number(8, 240),
                ("{s} has {v} seats.", "{v} guests fit into {s}.", "There is room for {v} guests at {s}."),
                (
                    "How many seats does {s} have?",
                    "How many guests fit into {s}?",
                    "seats at {s}?",
                    "How many people can sit down at {s}?",
                    "For how many is there room at {s}?",
                ),
                numeric=True,
            ),
        ),
    ),
    Kind(
        "spacecraft",
        _spacecraft,
        (
            Relation(
                "launch date",
                fictional.date,
                ("{s} was launched on {v}.", "The launch of {s} was on {v}.", "{s} left the pad on {v}."),
                (
                    "When was {s} launched?",
                    "On what date did {s} take off?",
                    "launch date of {s}?",
                    "What day was the launch of {s}?",
                    "When did {s} leave the ground?",
                ),
                "It was on",
                True,
            ),
            Relation(
                "destination",
                _PLANETS,
                ("{s} is on its way to {v}.", "The destination of {s} is {v}.", "{s} will explore {v}."),
                (
                    "Where is {s} going?",
                    "What is the destination of {s}?",
                    "Which world will {s} explore?",
                    "{s} is flying where?",
                    "What will {s} look at when it arrives?",
                ),
            ),
            Relation(
                "mass",
                lambda rng: f"{rng.randint(90, 9800):,} kilograms",
                ("{s} has a mass of {v}.", "The mass of {s} is {v}.", "{s} weighs {v}."),
                (
                    "How heavy is {s}?",
                    "What is the mass of {s}?",
                    "How much does {s} weigh?",
                    "mass of {s}?",
                    "What did the scales show for {s}?",
                ),
                numeric=True,
            ),
            Relation(
                "commander",
                fictional.person,
                (
                    "The mission of {s} is led by {v}.",
                    "{v} directs the mission of {s}.",
                    "Mission director of {s}: {v}.",
                ),
                (
                    "Who leads the mission of {s}?",
                    "Who is the mission director of {s}?",
                    "Who's responsible for {s}?",
                    "director of the {s} mission?",
                    "Who gives the orders for {s}?",
                ),
            ),
            Relation(
                "serial number",
                fictional.code,
                ("The serial number of {s} is {v}.", "{s} carries the serial number {v}.", "{s} is registered as {v}."),
                (
                    "What is the serial number of {s}?",
                    "Which serial number does {s} carry?",
                    "serial of {s}?",
                    "Under what identifier is {s} registered?",
                    "What code is painted on {s}?",
                ),
                numeric=True,
            ),
        ),
    ),
    Kind(
        "person",
        fictional.person,
        (
            Relation(
                "room",
                _room,
                ("{s} sits in room {v}.", "The office of {s} is {v}.", "You will find {s} in room {v}."),
                (
                    "Which room is {s} in?",
                    "What is {ps} room number?",
                    "Where is {ps} office?",
                    "room of {s}?",
                    "I'm looking for {s}. Which door do I knock on?",
                ),
                numeric=True,
            ),
            Relation(
                "phone extension",
                lambda rng: str(rng.randint(1000, 9999)),
                ("{ps} extension is {v}.", "Dial {v} to reach {s}.", "The phone extension of {s} is {v}."),
                (
                    "What is {ps} extension?",
                    "How do I reach {s} by phone?",
                    "extension of {s}?",
                    "Which number do I dial for {s}?",
                    "I have to ring {s}. What do I type?",
                ),
                numeric=True,
            ),
            Relation(
                "trainer",
                fictional.person,
                ("{s} is trained by {v}.", "The trainer of {s} is {v}.", "{v} coaches {s}."),
                (
                    "Who trains {s}?",
                    "Who is {ps} trainer?",
                    "trainer of {s}?",
                    "Who coaches {s}?",
                    "With whom does {s} practise?",
                ),
            ),
            Relation(
                "instrument",
                _INSTRUMENTS,
                ("{s} plays the {v}.", "{ps} instrument is the {v}.", "In the band, {s} is on the {v}."),
                (
                    "Which instrument does {s} play?",
                    "What does {s} play in the band?",
                    "{ps} instrument?",
                    "What is {ps} instrument?",
                    "What can be heard when {s} makes music?",
                ),
                "It is the",
            ),
            Relation(
                "birthplace",
                fictional.city,
                ("{s} was born in {v}.", "{ps} birthplace is {v}.", "{s} comes from {v}."),
                (
                    "Where was {s} born?",
                    "Which city is {s} from?",
                    "birthplace of {s}?",
                    "Where does {s} come from?",
                    "In what town did {s} first see the light?",
                ),
            ),
            Relation(
                "subject taught",
                _SUBJECTS,
                ("{s} teaches {v}.", "{ps} subject is {v}.", "{s} gives lessons in {v}."),
                (
                    "What does {s} teach?",
                    "Which subject does {s} teach?",
                    "{ps} subject?",
                    "What are {ps} lessons about?",
                    "What would I learn from {s}?",
                ),
            ),
        ),
    ),
    Kind(
        "recipe",
        _recipe,
        (
            Relation(
                "secret ingredient",
                _INGREDIENTS,
                (
                    "The secret ingredient of {s} is {v}.",
                    "{s} gets its taste from {v}.",
                    "What makes {s} special: {v}.",
                ),
                (
                    "What is the secret ingredient of {s}?",
                    "What gives {s} its taste?",
                    "secret of {s}?",
                    "What's special in {s}?",
                    "What must not be missing from {s}?",
                ),
            ),
            Relation(
                "cooking time",
                lambda rng: f"{rng.randint(7, 240)} minutes",
                ("{s} takes {v} to cook.", "Cook {s} for {v}.", "The cooking time of {s} is {v}."),
                (
                    "How long does {s} take to cook?",
                    "What is the cooking time of {s}?",
                    "cooking time for {s}?",
                    "For how long do I cook {s}?",
                    "I've put {s} on the stove. When is it done?",
                ),
                "It takes",
                True,
            ),
            Relation(
                "oven temperature",
                lambda rng: f"{rng.randint(110, 260)} degrees",
                ("{s} is made at {v}.", "The temperature for {s} is {v}.", "{s} needs {v} of heat."),
                (
                    "At what temperature is {s} made?",
                    "How hot does it have to be for {s}?",
                    "temperature for {s}?",
                    "What temperature does {s} need?",
                    "How far do I turn up the heat for {s}?",
                ),
                numeric=True,
            ),
            Relation(
                "inventor",
                fictional.person,
                ("{s} was invented by {v}.", "The recipe of {s} comes from {v}.", "{v} invented {s}."),
                (
                    "Who invented {s}?",
                    "Whose recipe is {s}?",
                    "Who came up with {s}?",
                    "inventor of {s}?",
                    "Which cook do we owe {s} to?",
                ),
            ),
        ),
    ),
    Kind(
        "software",
        _software,
        (
            Relation(
                "latest version",
                _version,
                ("The latest version of {s} is {v}.", "{s} is at version {v}.", "The current release of {s} is {v}."),
                (
                    "What is the latest version of {s}?",
                    "Which version is {s} at?",
                    "current version of {s}?",
                    "Which release of {s} is the newest?",
                    "What do I get if I install {s} today?",
                ),
                numeric=True,
            ),
            Relation(
                "release date",
                fictional.date,
                ("{s} was released on {v}.", "The release date of {s} is {v}.", "{s} came out on {v}."),
                (
                    "When was {s} released?",
                    "What is the release date of {s}?",
                    "release date of {s}?",
                    "When did {s} come out?",
                    "Since which day can one get {s}?",
                ),
                "It was on",
                True,
            ),
            Relation(
                "programming language",
                _LANGUAGES,
                ("{s} is written in {v}.", "The developers of {s} use {v}.", "{ps} source code is in {v}."),
                (
                    "What is {s} written in?",
                    "Which programming language is {s} written in?",
                    "language of {s}?",
                    "What language do I need to work on {s}?",
                    "What would I find in the source of {s}?",
                ),
            ),
            Relation(
                "default port",
                lambda rng: str(rng.randint(1025, 65000)),
                ("{s} listens on port {v}.", "The default port of {s} is {v}.", "By default, {s} uses port {v}."),
                (
                    "Which port does {s} use?",
                    "What is the default port of {s}?",
                    "port of {s}?",
                    "On which port does {s} listen?",
                    "My firewall blocks {s}. What do I open?",
                ),
                numeric=True,
            ),
            Relation(
                "maintainer",
                fictional.person,
                ("{s} is maintained by {v}.", "The maintainer of {s} is {v}.", "{v} looks after {s}."),
                (
                    "Who maintains {s}?",
                    "Who is the maintainer of {s}?",
                    "maintainer of {s}?",
                    "Who looks after {s}?",
                    "Whom do I send a patch for {s}?",
                ),
            ),
        ),
    ),
    Kind(
        "street",
        _street,
        (
            Relation(
                "postcode",
                lambda rng: str(rng.randint(10000, 99999)),
                ("The postcode of {s} is {v}.", "{s} has the postcode {v}.", "Letters to {s} carry the postcode {v}."),
                (
                    "What is the postcode of {s}?",
                    "Which postcode does {s} have?",
                    "postcode for {s}?",
                    "I'm writing to somebody in {s}. Which postcode do I use?",
                    "What digits go before the town for {s}?",
                ),
                numeric=True,
            ),
            Relation(
                "length",
                lambda rng: f"{rng.randint(60, 4800):,} meters",
                ("{s} is {v} long.", "The length of {s} is {v}.", "From end to end, {s} measures {v}."),
                (
                    "How long is {s}?",
                    "What is the length of {s}?",
                    "length of {s}?",
                    "How many meters does {s} measure?",
                    "How far do I walk from one end of {s} to the other?",
                ),
                numeric=True,
            ),
            Relation(
                "last tram",
                _clock,
                (
                    "The last tram from {s} leaves at {v}.",
                    "At {v} the last tram departs from {s}.",
                    "Last tram from {s}: {v}.",
                ),
                (
                    "When does the last tram leave {s}?",
                    "At what time is the last tram from {s}?",
                    "last tram from {s}?",
                    "Until when can I get a tram at {s}?",
                    "How late can I stay and still catch a tram at {s}?",
                ),
                "It is at",
                True,
            ),
        ),
    ),
    Kind(
        "ship",
        _ship,
        (
            Relation(
                "home port",
                fictional.city,
                ("The home port of {s} is {v}.", "{s} sails from {v}.", "{s} is registered in {v}."),
                (
                    "What is the home port of {s}?",
                    "Where does {s} sail from?",
                    "home port of {s}?",
                    "Which port is {s} registered in?",
                    "Where does {s} return to after a voyage?",
                ),
            ),
            Relation(
                "captain",
                fictional.person,
                ("{v} is the captain of {s}.", "The captain of {s} is {v}.", "{s} sails under {v}."),
                (
                    "Who is the captain of {s}?",
                    "Who commands {s}?",
                    "captain of {s}?",
                    "Under whom does {s} sail?",
                    "Who's on the bridge of {s}?",
                ),
            ),
            Relation(
                "color",
                _COLORS,
                ("{s} is painted {v}.", "The hull of {s} is {v}.", "{s} has a {v} hull."),
                (
                    "What color is {s}?",
                    "In which colour is {s} painted?",
                    "color of {s}?",
                    "What does the hull of {s} look like?",
                    "How will I recognize {s} by its paint?",
                ),
            ),
            Relation(
                "daily run",
                _distance,
                (
                    "{s} sails {v} on an average day.",
                    "On an average day, {s} covers {v}.",
                    "{s} – average day's run: {v}.",
                ),
                (
                    "How far does {s} sail on an average day?",
                    "What distance does {s} cover in a day?",
                    "average daily run of {s}?",
                    "How many kilometers a day does {s} sail?",
                    "How much sea does {s} put behind it in a day?",
                ),
                numeric=True,
            ),
        ),
    ),
    Kind(
        "part",
        _part,
        (
            Relation(
                "warehouse aisle",
                lambda rng: f"aisle {rng.randint(2, 96)}",
                ("{s} is kept in {v}.", "You will find {s} in {v}.", "The warehouse has {s} in {v}."),
                (
                    "Where is {s} kept?",
                    "In which aisle do I find {s}?",
                    "aisle for {s}?",
                    "Where in the warehouse is {s}?",
                    "I have to fetch {s}. Where do I go?",
                ),
                "It is in",
                True,
            ),
            Relation(
                "part number",
                fictional.code,
                ("The part number of {s} is {v}.", "{s} has the part number {v}.", "Order {s} as {v}."),
                (
                    "What is the part number of {s}?",
                    "Which part number does {s} have?",
                    "part number, {s}?",
                    "How do I order {s}?",
                    "What do I write on the order form for {s}?",
                ),
                numeric=True,
            ),
            Relation(
                "price",
                _price,
                ("{s} costs {v}.", "The price of {s} is {v}.", "We sell {s} for {v}."),
                (
                    "How much is {s}?",
                    "What does {s} cost?",
                    "price of {s}?",
                    "What do I pay for {s}?",
                    "A customer wants {s}. What do I charge?",
                ),
                numeric=True,
            ),
            Relation(
                "stock",
                fictional.number(2, 4200),
                ("There are {v} pieces of {s} in stock.", "{s}: {v} in stock.", "We have {v} pieces of {s}."),
                (
                    "How many pieces of {s} are in stock?",
                    "How many do we have of {s}?",
                    "stock of {s}?",
                    "What quantity of {s} is left?",
                    "Can I order {s}? How many are there?",
                ),
                numeric=True,
            ),
        ),
    ),
)
