"""`kalmagrove bench peers`: KalmaGrove beside llama.cpp's and vLLM's servers, all started by this command."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.console import USAGE, CommandError, fail, messages
from server.cli.measuring import measure, own_server
from server.cli.options import DataDir, model_directory

if TYPE_CHECKING:
    from rich.console import Console

    from loadtests.peers.launch import Peer, Weights
    from loadtests.peers.systems import System
    from loadtests.report import Report
    from loadtests.scenario import Options, Progress

MOUNTED = "kalmagrove-mounted"
SHIPPED = "kalmagrove-as-it-ships"
PASTED = "kalmagrove-pasted"


def peers(
    peer: Annotated[
        list[str] | None, typer.Option(help="Only this one, which must be installed; may be given several times.")
    ] = None,
    environments: Annotated[Path, typer.Option(help="Where `make peers` put the peers' environments.")] = Path(),
    gguf: Annotated[
        Path | None, typer.Option(help="The model's weights for llama.cpp; needed for models that are not packaged.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=500, help="Questions asked one by one.")] = 40,
    waves: Annotated[int, typer.Option(min=0, max=10, help="How often 4, and 16, are asked together.")] = 2,
    facts: Annotated[int, typer.Option(min=16, max=5000, help="Facts that KalmaGrove holds.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the facts and questions.")] = 1,
    max_seconds: Annotated[float, typer.Option(min=1, help="Stop measuring after this time.")] = 2400.0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the report as a PNG.")] = None,
    model: Annotated[
        str, typer.Option(envvar="KALMAGROVE_MODEL", help="A name under the models directory, or a path.")
    ] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """KalmaGrove beside llama.cpp's and vLLM's servers: same weights, facts and questions.

    KalmaGrove is measured with all facts mounted, as it ships (it mounts what a question needs of them), and pasted.

    All servers are started by this command, wait in memory, and are asked in turn. Those that are not installed are
    left out, and named.
    """
    with _failures(), ExitStack() as stack:
        from loadtests.peers.plot import require_matplotlib, write_plot
        from loadtests.peers.run import run
        from loadtests.peers.systems import System
        from loadtests.peers.tables import print_tables
        from loadtests.scenario import Options

        if plot:
            require_matplotlib()
        chosen = _chosen(peer, environments)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kalmagrove-peers-")))
        weights = _weights(model_directory(data_dir, model), chosen, environments, gguf, directory)
        target = stack.enter_context(own_server(data_dir, {"KALMAGROVE_MODEL": model}))
        systems = [
            System(MOUNTED, target, "mounted", "facts found and mounted by the server, always 8"),
            System(SHIPPED, target, "ships", "the same server, which mounts of them what the question needs"),
            System(PASTED, target, "pasted", "the same server, the same facts in the prompt"),
            *(_started(stack, one, environments, weights) for one in chosen),
        ]

        def scenario(options: Options, progress: Progress) -> Coroutine[Any, Any, Report]:
            return run(options, systems, waves, progress)

        def show(report: Report, console: Console) -> None:
            print_tables(report, console)
            if plot:
                write_plot(report, plot)

        measure(scenario, Options(target, count, facts, seed, max_seconds), json, show)


def _chosen(names: list[str] | None, environments: Path) -> list[Peer]:
    """Raises CommandError for one that is unknown or was asked for and is not there."""
    from loadtests.peers.launch import PEERS

    known = {one.name: one for one in PEERS}
    for name in names or ():
        if name not in known:
            raise CommandError(f"--peer {name}: known are {', '.join(known)}", USAGE)
    chosen = [known[name] for name in names] if names else list(PEERS)
    missing = [one for one in chosen if not one.executable(environments).is_file()]
    for one in missing:
        told = f"{one.name}: {one.executable(environments)} is not there (`make peers` installs it)"
        if names:
            raise CommandError(told)
        messages().print(f"left out: {told}", highlight=False)
    return [one for one in chosen if one not in missing]


def _weights(model: Path, chosen: list[Peer], environments: Path, gguf: Path | None, directory: Path) -> Weights:
    from kan.checkpoint.directory import Checkpoint
    from loadtests.peers.launch import QUANTIZE, Weights
    from server.cli.peer_weights import gguf_files, hugging_face_directory, packaged_gguf

    checkpoint = Checkpoint.open(model)
    kinds = {one.gguf for one in chosen if one.gguf}
    files: dict[str, Path] = {}
    if kinds:
        source = gguf or packaged_gguf(checkpoint)
        files = gguf_files(checkpoint, source, kinds, environments / QUANTIZE, directory)
    return Weights(hugging_face_directory(checkpoint, directory / "hugging-face"), files)


def _started(stack: ExitStack, peer: Peer, environments: Path, weights: Weights) -> System:
    from loadtests.peers.launch import started

    messages().print(f"starting {peer.name}…")
    return stack.enter_context(started(peer, environments, weights))


@contextmanager
def _failures() -> Iterator[None]:
    """What stands in the way, told in one line."""
    from kan.checkpoint.directory import CheckpointError
    from loadtests.peers.plot import PlotError
    from loadtests.serving import ServerStartError
    from server.cli.peer_weights import PeerWeightsError

    try:
        yield
    except (CommandError, CheckpointError, PeerWeightsError, ServerStartError, PlotError, OSError, ValueError) as error:
        fail(error if isinstance(error, CommandError) else CommandError(str(error)))
