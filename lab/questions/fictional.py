"""Names and values that nobody has heard of, made of syllables."""

from __future__ import annotations

import random
from collections.abc import Callable

from lab.questions.question import Split, split_of


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_ONSETS = _listed("b br c d dr f fl g gl gr h j k kl kr l m n p pl pr r s sk sl st t tr v w z")
_VOWELS = "aeiou"
_MIDDLES = _listed("b d f g k l ll lm ln m mb n nd ng nt p r rd rk rl rn rv s sk st t v x z")
_CODAS = _listed("a o ia ar el en er ex ic im in ine is ix om on or os um us ard eth old orn und")
_FIRST = _listed(
    "Mara Jon Ilse Tomas Edda Ravi Lena Oskar Nadia Piet Yara Milo Signe Amir Freya Dario Hanne Kofi Livia Bram "
    "Noor Stellan Ada Cyril Zuri Emil Petra Hugo Tala Viggo Inez Rolf Maren Idris Bettina Luca Astrid Femi Greta "
    "Soren"
)
_CITIES = _listed(
    "Oslo Lyon Turin Ghent Bergen Porto Gdansk Leeds Malmo Basel Graz Split Tartu Cork Bilbao Aarhus Utrecht "
    "Leipzig Kosice Vilnius Riga Krakow Valencia Marseille Geneva Antwerp Dresden Zagreb Dundee Seville Nantes "
    "Genoa Brno Lisbon Nagoya Busan Tampa Denver Quito Cusco Perth Hobart Fez Tunis Accra Lusaka Chennai Pune "
    "Hanoi Cebu"
)
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def word(rng: random.Random) -> str:
    """A capitalised invented word of two or three syllables, such as Zorvex."""
    longer = rng.choice(_VOWELS) + rng.choice(_MIDDLES) if rng.random() < 0.5 else ""
    start = rng.choice(_ONSETS) + longer + rng.choice(_VOWELS) + rng.choice(_MIDDLES)
    return (start + rng.choice(_CODAS)).capitalize()


def person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)} {word(rng)}"


def city(rng: random.Random) -> str:
    return rng.choice(_CITIES)


def date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(1988, 2031)}"


def code(rng: random.Random) -> str:
    """An identifier such as QX-4471."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.choice((2, 2, 3))))
    return f"{letters}-{rng.randint(100, 99999)}"


def number(low: int, high: int) -> Callable[[random.Random], str]:
    """Makes whole numbers, with thousands separators."""
    return lambda rng: f"{rng.randint(low, high):,}"


def year(rng: random.Random) -> str:
    return str(rng.randint(1802, 2031))


def one_of(words: str) -> Callable[[random.Random], str]:
    choices = tuple(words.split(", "))
    return lambda rng: rng.choice(choices)


def distinct(make: Callable[[random.Random], str], count: int, split: Split, rng: random.Random) -> list[str]:
    """`count` different names whose split is `split`: so no name is in two splits."""
    names: dict[str, None] = {}
    while len(names) < count:
        name = make(rng)
        if split_of(name) == split:
            names[name] = None
    return list(names)
