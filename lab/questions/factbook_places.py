"""How the Factbook's countries and territories are called in a sentence."""

from __future__ import annotations

import re

_RENAMED = {
    "The Dominican": "the Dominican Republic",
    "Cocos": "the Cocos Islands",
    "DRC": "the Democratic Republic of the Congo",
    "Congo": "the Republic of the Congo",
    "The Bahamas": "the Bahamas",
    "The Gambia": "the Gambia",
}
_WITH_ARTICLE = re.compile(
    r".*(?:Islands|Republic|Territory|Lands)|United .*|Federated .*|Gaza Strip|West Bank|Holy See|Isle of Man|"
    r"Netherlands|Philippines|Maldives|Comoros|Seychelles"
)
_SKIPPED = re.compile(r".{41,}|Gaza, Gaza Strip|Côte d'Ivoire")


def place_name(subject: str) -> str | None:
    """The name inside a sentence ("the Maldives"); None for entries that are several places or written twice."""
    if _SKIPPED.fullmatch(subject):
        return None
    if subject in _RENAMED:
        return _RENAMED[subject]
    return f"the {subject}" if _WITH_ARTICLE.fullmatch(subject) else subject
