"""What reads of the store have in common: their parameters, their turn, and what a bound key is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Query

from kb.facts import VersionGone
from server.http.schemas.knowledge import Namespace
from server.service.access import EVERYTHING, Access
from server.service.admission import Key
from server.services import Context

T = TypeVar("T")

NamespaceQuery = Annotated[Namespace | None, Query()]
Limit = Annotated[int, Query(ge=1, le=1000)]


async def read(context: Context, caller: str, function: Callable[[], T], access: Access = EVERYTHING) -> T:
    """What the function finds, when it is the caller's turn. Raises VersionGone as the key may know of it."""
    async with context.reads.enter(Key(caller)):
        with what_is_kept(access):
            return await context.lanes.reads.run(function)


@contextmanager
def what_is_kept(access: Access) -> Iterator[None]:
    """Which versions there are of everybody's is nothing for a key that is bound."""
    try:
        yield
    except VersionGone as error:
        raise error if access.whole else VersionGone(error.version, None) from error
