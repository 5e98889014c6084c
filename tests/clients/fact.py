"""A fact, and an answer that says it: forced, since a tiny model would not."""

from __future__ import annotations

from typing import Any

FACT = {"id": "ceo", "text": "The chief executive of Zorvex is Mara Lindqvist."}
QUESTION = "Who is the chief executive of Zorvex?"
ANSWER = "The chief executive is Mara Lindqvist."
FORCED: dict[str, Any] = {"guided_choice": [ANSWER]}
CITED = "kalmagrove:default/ceo"
UNHEARD_OF = {"knowledge": {"min_version": 10**9}}
"""Refused, and so a proof that the server has read what a client that shows no more of it has sent."""
REFUSED = "not yet at 1000000000"
