"""The server process: load everything, say what is served, listen, and drain when told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import uvloop
from rich.console import Console
from rich.markup import escape

from server.http.app import create_app
from server.http.listening import DrainingServer, allow_files, configuration
from server.loading import StartupError, load
from server.services import Context
from server.settings import Settings
from server.warmup import import_demo, warm_up

OnReady = Callable[[str], None]
"""Called with the server's URL once it listens."""


def run(settings: Settings, on_ready: OnReady | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Ends the process with status 1 and one line if it cannot start."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for chatty in ("httpx", "sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there are keys that it could ask to read anew
    allow_files(settings)
    try:
        listener = bind(settings)
        with listener:
            app = create_app(settings, load(settings, console))
            context: Context = app.state.context
            announce = partial(_announce, console, context, listener, on_ready)
            server = DrainingServer(configuration(app), context, announce)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(server, context, console, listener))
    except StartupError as error:
        _fail(console, str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


async def _serve(server: DrainingServer, context: Context, console: Console, listener: socket.socket) -> None:
    keys = context.services.keys
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, partial(keys.refresh, even_unchanged=True))
    try:
        await import_demo(context, console)
        await warm_up(context)
        # What is loaded now stays: a collection that walks all of it would stop every stream for tens of milliseconds.
        gc.collect()
        gc.freeze()
    except BaseException:
        await context.close()
        raise
    # Uvicorn catches the signals, and raises them again once it is done, for whoever else waits for them: nobody.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await server.serve([listener])


def bind(settings: Settings) -> socket.socket:
    """Before the model is loaded, so that a taken port is told at once. Raises StartupError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because event loops switch Nagle's algorithm off (40 ms per token) only where they see it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error
    return listener


def _announce(console: Console, context: Context, listener: socket.socket, on_ready: OnReady | None) -> None:
    settings, services = context.settings, context.services
    knowledge, engine = services.store.snapshot, services.engine.info
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"  # the port may have been 0
    console.print(
        f"KalmaGrove serves [bold]{escape(services.model_name)}[/] ({engine.dtype}, {engine.kernels} kernels) with "
        f"{knowledge.count()} facts, version {knowledge.version}, at [bold]{url}[/]",
        highlight=False,
        soft_wrap=True,
    )
    if services.keys.open():
        console.print("No keys are configured: only this machine can reach the server, without a key.", soft_wrap=True)
    if on_ready is not None:
        on_ready(url)


def _fail(console: Console, message: str) -> NoReturn:
    console.print(f"[red]kalmagrove:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1)
