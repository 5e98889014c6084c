"""`kalmagrove serve`: the server, with options that override the environment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpu.threads import wait_briefly
from server.cli.console import USAGE, CommandError, fail
from server.cli.demo_hint import demo_hint
from server.ending import end_on_sigterm

if TYPE_CHECKING:
    from rich.console import Console

    from server.serve import Addresses
    from server.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; anything but loopback needs keys.")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free port.")] = None,
    admin_host: Annotated[str | None, typer.Option(help="Where /admin and /metrics listen if they are apart.")] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Puts /admin and /metrics on a listener of their own; 0: any free port.")
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="TLS, with these certificates (PEM).")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Their private key, if it is in another file.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Models, knowledge and cached pages.")] = None,
    model: Annotated[str | None, typer.Option(help="A name under the models directory, or a path.")] = None,
    phi: Annotated[str | None, typer.Option(help="auto, gap, none, or a safetensors file of φ.")] = None,
    engine: Annotated[str | None, typer.Option(help="embedded, or vllm where vLLM is installed.")] = None,
    vllm_args: Annotated[
        str | None, typer.Option(help="vLLM's own options in one string, e.g. '--tensor-parallel-size 2'.")
    ] = None,
    client_keys_file: Annotated[Path | None, typer.Option(help="Keys for /v1.")] = None,
    admin_keys_file: Annotated[Path | None, typer.Option(help="Keys for /admin.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")] = None,
    attention: Annotated[
        str | None, typer.Option(help="auto, full, or sqrt for √n attention in long contexts.")
    ] = None,
    attention_blocks: Annotated[int | None, typer.Option(help="Of sqrt: blocks that a row chooses.")] = None,
    attention_threshold: Annotated[
        int | None, typer.Option(help="Of sqrt: tokens of a context whose rows see everything.")
    ] = None,
    cache_gib: Annotated[float | None, typer.Option(help="Memory for KV pages.")] = None,
    knowledge_url: Annotated[str | None, typer.Option(help="Path or database URL of the facts log.")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Fill an empty store with the demo's facts.")
    ] = None,
) -> None:
    """Serve completions that use live knowledge.

    Options not given are taken from KALMAGROVE_* environment variables, which can set everything else as well (see
    the README's table of settings).
    """
    given = {name: value for name, value in locals().items() if value is not None}
    _run(given)


def _run(given: dict[str, Any]) -> None:
    end_on_sigterm()
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = [_problem(p["loc"], p["msg"]) for p in error.errors()]
        fail(CommandError("; ".join(problems), USAGE))
    if settings.engine == "embedded":
        wait_briefly()
    from server.serve import run

    run(settings, partial(_greet, settings))


def _greet(settings: Settings, console: Console, addresses: Addresses) -> None:
    if settings.demo:
        hint = demo_hint(addresses.public, addresses.admin, settings.model_dir.name, keys=settings.keys_configured)
        console.print(hint, markup=False, highlight=False, soft_wrap=True)


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location)
    return f"{name}: {message}" if name else message
