"""The server process: load everything, say what is served, listen, and drain when told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import uvloop
from rich.console import Console
from rich.markup import escape

from server import logs
from server.http.app import create_admin_app, create_app
from server.http.certificate import Certificate, CertificateError
from server.http.keys import Keys
from server.http.listening import Companion, DrainingServer, allow_files, configuration
from server.loading import StartupError, load
from server.services import Context
from server.settings import Settings
from server.warmup import import_demo, warm_up


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens, as URLs."""

    public: str
    admin: str
    """The same, unless /admin is apart."""


OnReady = Callable[[Console, Addresses], None]
"""Called once the server listens, to say more to a person."""
logger = logging.getLogger("kalmagrove.server")


def run(settings: Settings, on_ready: OnReady | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Ends the process with status 1 and one line if it cannot start."""
    stderr = logs.configure(settings.log_level, settings.log_format)
    quiet = settings.log_format == "json"
    console = Console(file=stderr, quiet=quiet)  # type: ignore[arg-type]  # a TextIOBase is an IO[str] in all but name
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that it could ask to read anew
    settings = allow_files(settings)
    try:
        with ExitStack() as sockets:
            listener = sockets.enter_context(bind(settings.host, settings.port))
            admin = sockets.enter_context(bind(*settings.admin_address)) if settings.admin_apart else None
            certificate = _certificate(settings)
            app = create_app(settings, load(settings, console))
            context: Context = app.state.context
            addresses = Addresses(
                _url(settings, settings.host, listener), _url(settings, settings.admin_address[0], admin or listener)
            )
            beside = Companion(configuration(create_admin_app(context), "off", certificate), admin) if admin else None
            announce = partial(_announce, console, context, addresses, on_ready)
            server = DrainingServer(configuration(app, "on", certificate), context, announce, beside)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(server, context, console, listener, certificate))
    except StartupError as error:
        _fail(settings, console, str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


async def _serve(
    server: DrainingServer,
    context: Context,
    console: Console,
    listener: socket.socket,
    certificate: Certificate | None,
) -> None:
    logs.log_loop_failures(asyncio.get_running_loop())
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _read_anew, context.services.keys, certificate)
    try:
        await import_demo(context, console)
        await warm_up(context)
        # What is loaded now stays: a collection that walks all of it would stop every stream for tens of milliseconds.
        gc.collect()
        gc.freeze()
    except BaseException:
        await context.close()
        raise
    # Uvicorn catches the signals, and raises them again once it is done, for whoever else waits for them: nobody. Until
    # it does, one that comes is kept for it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_stop, server))
    try:
        await server.serve([listener])
    except OSError as error:  # somebody else began to listen on a port while the model was loaded
        raise StartupError(f"cannot listen: {error.strerror or error}") from error


def _stop(server: DrainingServer, *_: object) -> None:
    server.should_exit = True


def _read_anew(keys: Keys, certificate: Certificate | None) -> None:
    keys.refresh(even_unchanged=True)
    if certificate is not None:
        certificate.refresh()


def _certificate(settings: Settings) -> Certificate | None:
    """Before the model is loaded. Raises StartupError."""
    try:
        return Certificate.of(settings)
    except CertificateError as error:
        raise StartupError(str(error)) from error


def bind(host: str, port: int) -> socket.socket:
    """Before the model is loaded, so that a taken port is told at once. Raises StartupError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because event loops switch Nagle's algorithm off (40 ms per token) only where they see it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _url(settings: Settings, host: str, listener: socket.socket) -> str:
    scheme = "https" if settings.ssl_certfile else "http"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"  # the port may have been 0


def _announce(console: Console, context: Context, addresses: Addresses, on_ready: OnReady | None) -> None:
    settings, services = context.settings, context.services
    knowledge, engine = services.store.snapshot, services.engine.info
    console.print(
        f"KalmaGrove serves [bold]{escape(services.model_name)}[/] ({engine.dtype}, {engine.kernels} kernels) with "
        f"{knowledge.count()} facts, version {knowledge.version}, at [bold]{addresses.public}[/]",
        highlight=False,
        soft_wrap=True,
    )
    if settings.console:
        console.print(f"Ask and edit in a browser: [bold]{addresses.admin}/console[/]", highlight=False, soft_wrap=True)
    if addresses.admin != addresses.public:
        console.print(f"/admin and /metrics are at [bold]{addresses.admin}[/]", highlight=False, soft_wrap=True)
    if services.keys.open():
        console.print("No keys are configured: only this machine can reach the server, without a key.", soft_wrap=True)
    if settings.log_format == "json":
        logger.info("serving", extra={"fields": _served(context, addresses)})
    elif on_ready is not None:
        on_ready(console, addresses)


def _served(context: Context, addresses: Addresses) -> dict[str, object]:
    services = context.services
    knowledge, engine = services.store.snapshot, services.engine.info
    return {
        "model": services.model_name,
        "dtype": engine.dtype,
        "kernels": engine.kernels,
        "facts": knowledge.count(),
        "knowledge_version": knowledge.version,
        "url": addresses.public,
        "admin_url": addresses.admin,
        "keys": not services.keys.open(),
    }


def _fail(settings: Settings, console: Console, message: str) -> NoReturn:
    if settings.log_format == "json":
        logger.critical("cannot start: %s", message)
    console.print(f"[red]kalmagrove:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1)
