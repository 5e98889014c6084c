"""What the clients are asked for: all of it from short lists, so that a tiny model comes to an end."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

MODEL = "tiny"
QUESTION = "A child's ticket for two zones of the Amber Line, please."


class Ticket(BaseModel):
    """A ticket."""

    line: Literal["amber", "cobalt"]
    zones: Literal["one", "two", "three"]
    child: bool
