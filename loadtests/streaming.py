"""A server that streams answers beside what is measured in this process: it has both cores to itself otherwise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.client import Target, connect
from loadtests.refusals import RequestError
from loadtests.scenario import user
from loadtests.serving import temporary_server

STREAMS = 4
TOKENS = 256
_PATIENCE_S = 120.0
_QUESTION = "Tell me a long story about a harbour."


class Streams:
    """What the streams have told."""

    def __init__(self) -> None:
        self.pieces = 0
        self.began = threading.Event()
        self.failure: str | None = None

    def on_content(self) -> None:
        """One more piece of content came."""
        self.pieces += 1
        self.began.set()


@contextmanager
def beside_streams(data_dir: Path) -> Iterator[Streams]:
    """Four streams without end meanwhile, of a server of its own. Raises ServerStartError, RequestError."""
    streams = Streams()
    with temporary_server(data_dir) as target:
        loop = asyncio.new_event_loop()
        task = loop.create_task(_stream(target, streams))
        thread = threading.Thread(target=_run, args=(loop, task, streams), name="streams")
        thread.start()
        try:
            if not streams.began.wait(_PATIENCE_S) or streams.failure is not None:
                raise RequestError(streams.failure or "no stream began")
            yield streams
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], streams: Streams) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except Exception as error:
        streams.failure = str(error)
        streams.began.set()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())


async def _stream(target: Target, streams: Streams) -> None:
    async with connect(target, connections=STREAMS) as client:

        async def one() -> None:
            while True:
                await client.ask(
                    user(_QUESTION), {"enabled": False}, TOKENS, to_the_end=True, on_content=streams.on_content
                )

        await asyncio.gather(*(one() for _ in range(STREAMS)))
