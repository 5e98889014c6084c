"""`kalmagrove train`: learn φ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.console import CommandError, fail, messages, progress_bar
from server.cli.options import DataDir

if TYPE_CHECKING:
    from kan.checkpoint.directory import Checkpoint

app = typer.Typer(help="Train what the model lacks to use knowledge well.", no_args_is_help=True)


@app.command()
def phi(
    data: Annotated[
        Path, typer.Option(help="Directory with factbook_facts_2026, counterfact and squad_train_subset (.jsonl.gz).")
    ],
    output: Annotated[Path, typer.Option("--out", help="Directory of the run; one that exists is resumed.")],
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=1, help="Batches to learn from.")] = 900,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam, in units of the attention score.")] = 0.05,
    adapter_rank: Annotated[int, typer.Option(min=0, help="Of the update of knowledge's K and V; 0: none.")] = 8,
    adapter_learning_rate: Annotated[float, typer.Option(min=0, help="In units of what it changes.")] = 0.001,
    questions: Annotated[int, typer.Option(min=1, help="Training questions per set.")] = 1500,
    dev_questions: Annotated[int, typer.Option(min=1, help="Held-out questions per set.")] = 60,
    start: Annotated[str, typer.Option(help="φ to begin with: gap, none, auto (the shipped one) or a file.")] = "gap",
    seed: Annotated[int, typer.Option(help="Of the questions, the batches and what is mounted.")] = 0,
    data_dir: DataDir = Path("data"),
) -> None:
    """Train φ on a frozen model: phi.safetensors, its model card and the learning curve."""
    from lab.training.phi_run import PhiRun, train_phi
    from lab.training.trainer import TrainingOptions

    options = TrainingOptions(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        adapter_rank=adapter_rank,
        adapter_learning_rate=adapter_learning_rate,
        seed=seed,
    )
    with _failures(), progress_bar() as bar:
        train_phi(PhiRun(data, output, _checkpoint(data_dir, model), questions, dev_questions, options, start), bar)
    messages().print(f"wrote {output}", highlight=False)


@app.command()
def refit(
    data: Annotated[Path, typer.Option(help="As for `phi`.")],
    output: Annotated[Path, typer.Option("--out", help="Directory for phi.safetensors.")],
    start: Annotated[str, typer.Option(help="φ whose splines are refitted: a file, or auto (the shipped one).")],
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    questions: Annotated[int, typer.Option(min=1, help="Training questions per set.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the questions and what is mounted.")] = 0,
    data_dir: DataDir = Path("data"),
) -> None:
    """Refit a trained φ in closed form, so that the second of two facts counts as well (a minute; no gradients)."""
    from lab.training.phi_run import PhiRun, refit_phi
    from lab.training.refit import RefitOptions
    from lab.training.trainer import TrainingOptions

    with _failures(), progress_bar() as bar:
        run = PhiRun(data, output, _checkpoint(data_dir, model), questions, 0, TrainingOptions(seed=seed), start)
        refit_phi(run, RefitOptions(), bar)
    messages().print(f"wrote {output}", highlight=False)


def _checkpoint(data_dir: Path, model: str) -> Checkpoint:
    from kan.checkpoint.directory import Checkpoint

    named = data_dir / "models" / model
    return Checkpoint.open(named if named.is_dir() else Path(model))


@contextmanager
def _failures() -> Iterator[None]:
    from kan.checkpoint.directory import CheckpointError
    from kan.knowledge.grounding import GroundingError
    from kan.knowledge.phi import PhiError
    from lab.questions.rows import DataError

    try:
        yield
    except (CheckpointError, PhiError, GroundingError, DataError, ValueError, OSError) as error:
        fail(CommandError(str(error)))
    except ModuleNotFoundError as error:
        fail(CommandError(f"{error.name} is not installed; `pip install kalmagrove[train]` brings it"))
