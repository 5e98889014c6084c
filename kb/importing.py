"""Many batches in a row: one is written while the next is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kb.edit import Commit
from kb.facts import Change
from kb.store import Store


def imported(store: Store, batches: Iterable[Sequence[Change]]) -> Iterator[Commit]:
    """What was committed of each batch, in their order; the calling thread embeds.

    Raises what `Store.prepare` and `Store.commit` do, and what `batches` does: all that was committed until then has
    been given, and nothing after the batch that failed is.
    """
    with ThreadPoolExecutor(1, "kb-import") as writer:
        writing: Future[Commit] | None = None
        failure: Exception | None = None
        waiting = iter(batches)
        while failure is None:
            prepared = None
            try:
                changes = next(waiting, None)
                prepared = None if changes is None else store.prepare(changes)
            except Exception as error:
                failure = error
            if writing is not None:
                yield writing.result()
            if prepared is None:
                break
            writing = writer.submit(store.commit, prepared)
        if failure is not None:
            raise failure
