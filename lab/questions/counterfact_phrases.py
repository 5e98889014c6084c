"""CounterFact prompts as sentences, and natural questions for what they ask.

The set's prompts are stems that a value completes. Some are no sentence ("X, developed by"): these are turned into
one, or dropped where no sentence can be made of them.
"""

from __future__ import annotations

import re

_STEMS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^What is the twin city of \{\}\? It is$", "The twin city of {} is"),
        (r"^Which position does \{\} play\? They play as$", "{} plays as"),
        (r"^Where is \{\}\? It is located in$", "{} is located in"),
        (r"^What (?:sport )?does \{\} play\? They play$", "{} plays"),
        (r"^\{\}, in$", "{} is in"),
        (r"^\{\}, who plays the position$", "{} plays the position of"),
        (r"^\{\}, a native$", "The native language of {} is"),
        (r"^\{\}, speaker of$", "{} is a speaker of"),
        (r"^\{\}, a citizen of$", "{} is a citizen of"),
        (r"^\{\}, a product ((?:created|manufactured|developed) by|of)$", r"{} is a product \1"),
        (r"^\{\}, playing the$", "{} plays the"),
        (r"^\{\}, performing on the$", "{} performs on the"),
        (r"^\{\}, by$", "{} is by"),
        (r"^\{\}'s owner$", "The owner of {} is"),
        (r"^\{\}, whose headquarters are in$", "The headquarters of {} are in"),
        (r"^\{\}, whose position is that of$", "{} holds the position of"),
        (r"^\{\}, (located in|named after|named for|called after)$", r"{} is \1"),
        (r"^\{\}, ((?:developed|created|produced|formulated|founded|formed|started|written) (?:by|in))$", r"{} was \1"),
        (r"^\{\},? (?:who|that|which) (.+)$", r"{} \1"),
    )
)
_DROPPED = re.compile(r"^\{\}(?:,.*| owner| from)$|[?]")

_RELATIONS: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (name, re.compile(pattern), questions)
    for name, pattern, questions in (
        (
            "language of a person",
            r"mother tongue|native (?:language|speaker)|speaker of|\} (?:speaks|spoke)|language used by|\} writes in",
            ("What language does {s} speak?", "Which language is {s}'s own?", "In which language would I talk to {s}?"),
        ),
        (
            "language of a place",
            r"official language|language spoken|they understand|declares the language",
            ("What language is spoken in {s}?", "Which language do people in {s} use?", "What do they speak in {s}?"),
        ),
        (
            "language of a work",
            r"language of|written in",
            ("What language is {s} in?", "In which language was {s} made?", "What's the original language of {s}?"),
        ),
        ("continent", r"continent", ("Which continent is {s} on?", "What continent does {s} belong to?")),
        (
            "twin city",
            r"twin city",
            ("Which city is twinned with {s}?", "What is {s}'s twin city?", "Name the sister city of {s}."),
        ),
        ("capital", r"[Cc]apital", ("What is the capital of {s}?", "capital of {s}?")),
        (
            "headquarters",
            r"[Hh]eadquarter|is based in",
            ("Where is {s} headquartered?", "Where are the headquarters of {s}?", "In which city is {s} based?"),
        ),
        (
            "death",
            r"died|passed away|lost their life|expired|succumbed|life ended",
            ("Where did {s} die?", "In which city did {s} pass away?", "What was the place of {s}'s death?"),
        ),
        (
            "citizenship",
            r"citizen",
            ("Which country is {s} a citizen of?", "What citizenship does {s} hold?", "Whose passport does {s} have?"),
        ),
        (
            "religion",
            r"religion|follower of",
            ("What is the religion of {s}?", "Which religion does {s} follow?", "What faith does {s} belong to?"),
        ),
        (
            "position in a team",
            r"plays as|position of \{\} |plays (?:in )?the position",
            ("Which position does {s} play?", "What does {s} play as?", "In what position is {s} on the field?"),
        ),
        (
            "instrument",
            r"plays the|performs on",
            ("Which instrument does {s} play?", "What instrument is {s} known for?", "What does {s} play on stage?"),
        ),
        (
            "sport",
            r"\} plays$|professional",
            ("What does {s} play?", "What is it that {s} plays?", "{s} – plays what?"),
        ),
        (
            "genre",
            r"genre|perform",
            ("What genre does {s} perform?", "What kind of thing is {s} known for performing?"),
        ),
        (
            "network",
            r"debut|premier|aired|released on",
            ("Which network first showed {s}?", "Where did {s} premiere?", "On which channel was {s} first seen?"),
        ),
        (
            "workplace",
            r"work(?:ed)? in (?!the)|employ(?:ed|ment) in|took up work|worked in",
            ("Where did {s} work?", "In which city did {s} have a job?", "What was {s}'s place of work?"),
        ),
        (
            "field",
            r"works in the|area of work|domain|expertise|specializes",
            ("What field does {s} work in?", "What is {s}'s area of expertise?", "What does {s} know most about?"),
        ),
        (
            "occupation",
            r"occupation|profession|works as",
            ("What does {s} do for a living?", "What is {s}'s job?", "Which profession does {s} have?"),
        ),
        (
            "office",
            r"holds the|has the position|position is|\} is a$",
            ("What position does {s} hold?", "Which office does {s} have?", "What's {s}'s title?"),
        ),
        (
            "employer",
            r"employed by|works for",
            ("Who does {s} work for?", "Who employs {s}?", "Who is {s}'s employer?"),
        ),
        (
            "maker",
            r"(?:developed|created|produced|sold|manufactured) by|product of|is by|owned by|[Oo]wner",
            ("Who makes {s}?", "Which company is behind {s}?", "Whose product is {s}?", "Who stands behind {s}?"),
        ),
        ("name", r"named|called after", ("What is {s} named after?", "Where does the name of {s} come from?")),
        (
            "organization",
            r"affiliated|belongs to|member|part of",
            ("What organization is {s} part of?", "Which organization does {s} belong to?"),
        ),
        (
            "origin",
            r"origin|native to|created in|formulated in|formed in|founded in|started in|developed in|from|born",
            ("Where does {s} come from?", "Where is {s} from?", "What is the origin of {s}?", "Where did {s} begin?"),
        ),
        (
            "location",
            r"located|location|is in|found in|within",
            ("Where is {s}?", "Where can I find {s}?", "In which place is {s}?", "What is the location of {s}?"),
        ),
    )
)


def stem_of(prompt: str, subject: str) -> str | None:
    """The prompt as the beginning of a sentence with {} for the subject; None if none can be made of it."""
    if prompt.count(subject) != 1 or "{" in prompt or "}" in prompt:
        return None
    stem = prompt.replace(subject, "{}").strip()
    for pattern, replacement in _STEMS:
        if pattern.search(stem):
            return pattern.sub(replacement, stem)
    return None if _DROPPED.search(stem) else stem


def relation_of(stem: str) -> tuple[str, tuple[str, ...]]:
    """Name of what the stem states, shared by its rewordings, and questions for it with {s} for the subject."""
    for name, pattern, questions in _RELATIONS:
        if pattern.search(stem):
            return name, questions
    return stem, ()
