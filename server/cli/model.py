"""`kalmagrove model`: bring models in, and look at them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from server.cli.console import CommandError, fail, messages, output, progress_bar
from server.cli.options import DataDir, model_directory

if TYPE_CHECKING:
    from kan.checkpoint.directory import Checkpoint
    from kan.config import KANConfig
    from kan.symmetry.parameters import Counts

app = typer.Typer(help="Import models and look at them.", no_args_is_help=True)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help="A .gguf file, a Hugging Face directory, a hub id (org/name), or smollm2-135m."),
    ],
    name: Annotated[str | None, typer.Option(help="Name under the models directory; default: the source's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of the same name.")] = False,
    data_dir: DataDir = Path("data"),
) -> None:
    """Turn SOURCE into a checkpoint directory that the server can load."""
    with _failures(), progress_bar() as bar:
        from kan.checkpoint.sources import import_model

        task = bar.add_task("importing tensors", total=None)
        checkpoint = import_model(
            source,
            data_dir / "models",
            name=name,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    messages().print(f"imported {checkpoint.config.name} into {checkpoint.directory}", highlight=False)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """Check a checkpoint's files against their digests and show what it is."""
    with _failures():
        from kan.checkpoint.directory import Checkpoint

        checkpoint = Checkpoint.open(model_directory(data_dir, model))
        output().print(_table(checkpoint))


@app.command()
def params(
    model: Annotated[str, typer.Argument(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """Count a model's free parameters, and those of an ordinary model of the same widths."""
    with _failures():
        from kan.checkpoint.directory import Checkpoint
        from kan.symmetry.parameters import count

        checkpoint = Checkpoint.open(model_directory(data_dir, model))
        output().print(_counted(checkpoint.config, count(checkpoint.config)))


def _counted(config: KANConfig, counts: Counts) -> Table:
    table = Table(title=f"{config.name}: parameters", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_row("free parameters", f"{counts.free:,}")
    table.add_row("dense equivalent: an ordinary model of the same widths", f"{counts.dense:,}")
    table.add_row("ratio", f"{counts.ratio:.3g}")
    table.add_row("group", config.group)
    table.add_row("|G|", str(counts.order))
    table.add_row("|Stab_G(f)|: elements that leave every token where it is", str(counts.stabiliser))
    table.add_row("Eq. 2, |G| / |Stab_G(f)|", f"{counts.bound:.3g}")
    table.add_row("Theorem 1, √(mn) of every matrix together", f"{counts.least:,}")
    for size, words in counts.orbits.items():
        table.add_row(f"words in orbits of {size}", f"{words:,}")
    return table


def _table(checkpoint: Checkpoint) -> Table:
    from kan.symmetry.parameters import count

    table = Table(title=str(checkpoint.directory), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("parameters", f"{count(checkpoint.config).free:,}")
    table.add_row("fingerprint", checkpoint.fingerprint)
    table.add_row("source", checkpoint.source)
    for field, value in checkpoint.config.to_json().items():
        table.add_row(field, str(value))
    return table


@contextmanager
def _failures() -> Iterator[None]:
    """What stands in the way of a model, told in one line."""
    from kan.checkpoint.directory import CheckpointError
    from kan.checkpoint.imported import ModelImportError

    try:
        yield
    except (CheckpointError, ModelImportError, OSError) as error:
        fail(CommandError(str(error)))
