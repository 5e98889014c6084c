"""Many batches in a row: one is written while the next ones are embedded, as many at once as there are cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cpu.cores import effective_cores
from cpu.threads import compute_alone
from kb.edit import Commit, Prepared
from kb.facts import Change
from kb.store import Store


def imported(store: Store, batches: Iterable[Sequence[Change]]) -> Iterator[Commit]:
    """What was committed of each batch, in their order; so many are held at once as there are cores, and two more.

    Raises what `Store.prepare` and `Store.commit` do, and what `batches` does: all that was committed until then has
    been given, and nothing after the batch that failed is.
    """
    cores = effective_cores()
    with (
        # Each computes alone: two threads that shared every product would wait for each other, and for the writer.
        ThreadPoolExecutor(cores, "kb-import-encoder", compute_alone) as encoders,
        ThreadPoolExecutor(1, "kb-import-writer") as writer,
    ):
        writing: Future[Commit] | None = None
        failure: Exception | None = None
        for preparing in _begun(encoders, cores, store, batches):
            try:
                prepared = preparing.result()
            except Exception as error:
                failure = error
            if writing is not None:
                yield writing.result()
                writing = None
            if failure is not None:
                raise failure
            writing = writer.submit(store.commit, prepared)
        if writing is not None:
            yield writing.result()


def _begun(
    encoders: ThreadPoolExecutor, ahead: int, store: Store, batches: Iterable[Sequence[Change]]
) -> Iterator[Future[Prepared]]:
    """Of every batch in order; `ahead` more of them are under way."""
    begun: deque[Future[Prepared]] = deque()
    for preparing in _submitted(encoders, store, batches):
        begun.append(preparing)
        if len(begun) > ahead:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _submitted(
    encoders: ThreadPoolExecutor, store: Store, batches: Iterable[Sequence[Change]]
) -> Iterator[Future[Prepared]]:
    """What `batches` raises is the failure of the last one."""
    try:
        for changes in batches:
            yield encoders.submit(store.prepare, changes)
    except Exception as error:
        failed: Future[Prepared] = Future()
        failed.set_exception(error)
        yield failed
