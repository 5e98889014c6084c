"""`kalmagrove train`: learn φ for a model, or a model of its own from the first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from server.cli.console import messages, progress_bar
from server.cli.laboratory import failures_told
from server.cli.options import DataDir, model_directory

app = typer.Typer(help="Train what a model lacks to use knowledge; or a model, from scratch.", no_args_is_help=True)


@app.command()
def phi(
    data: Annotated[
        Path,
        typer.Option(
            help="Directory with factbook_facts_2026, counterfact, squad_train_subset and wiki_passages (.jsonl.gz)."
        ),
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
    sets: Annotated[
        str, typer.Option(help="Sets of questions and how often each is drawn: squad=3,prose=1. Default: as shipped.")
    ] = "",
    without: Annotated[
        str, typer.Option(help="A kind of questions to leave out: invented, squad or a set that is a kind of its own.")
    ] = "",
    follow: Annotated[
        str,
        typer.Option(
            help="Sets, separated by commas, that teach where to look and not how to answer: their replies are "
            "those of the φ to begin with, given the right facts alone."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the questions, the batches and what is mounted.")] = 0,
    data_dir: DataDir = Path("data"),
) -> None:
    """Train φ on a frozen model: phi.safetensors, its model card and the learning curve."""
    from kan.checkpoint.directory import Checkpoint
    from lab.training.run import WEIGHTS, PhiRun, train_phi, without_kind
    from lab.training.trainer import TrainingOptions

    weights = _shares(sets) or WEIGHTS
    options = TrainingOptions(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        adapter_rank=adapter_rank,
        adapter_learning_rate=adapter_learning_rate,
        seed=seed,
    )
    with failures_told(), progress_bar() as bar:
        weights = without_kind(weights, without) if without else weights
        checkpoint = Checkpoint.open(model_directory(data_dir, model))
        followed = frozenset(one.strip() for one in follow.split(",") if one.strip())
        train_phi(PhiRun(data, output, checkpoint, questions, dev_questions, options, start, weights, followed), bar)
    messages().print(f"wrote {output}", highlight=False)


@app.command()
def lm(
    configuration: Annotated[
        str, typer.Argument(help="A TOML file, or kan-scan, scan-group, scan-dense, scan-dense-small.")
    ],
    output: Annotated[Path, typer.Option("--out", help="Directory of the run; one that exists is resumed.")],
    split: Annotated[str | None, typer.Option(help="Of SCAN, instead of the configuration's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and samples, instead of the configuration's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to learn from, instead of the configuration's.")] = None,
) -> None:
    """Train all weights of a native KAN, or of a Transformer, from scratch; write its checkpoint and curve."""
    with failures_told(), progress_bar() as bar:
        from lab.training.lm.configuration import read_plan
        from lab.training.lm.run import train_lm

        plan = read_plan(configuration).changed(split=split, seed=seed, steps=steps)
        checkpoint = train_lm(plan, output, bar)
    messages().print(f"wrote {checkpoint.directory}", highlight=False)


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
    from kan.checkpoint.directory import Checkpoint
    from lab.training.refit import RefitOptions
    from lab.training.run import PhiRun, refit_phi
    from lab.training.trainer import TrainingOptions

    with failures_told(), progress_bar() as bar:
        checkpoint = Checkpoint.open(model_directory(data_dir, model))
        run = PhiRun(data, output, checkpoint, questions, 0, TrainingOptions(seed=seed), start)
        refit_phi(run, RefitOptions(), bar)
    messages().print(f"wrote {output}", highlight=False)


@app.command()
def blend(
    output: Annotated[Path, typer.Option("--out", help="Directory for phi.safetensors.")],
    start: Annotated[str, typer.Option(help="The trained φ: a file, or auto (the shipped one).")],
    share: Annotated[float, typer.Option(min=0, max=1, help="How much of its splines; of the others the rest.")] = 0.5,
    adapter_share: Annotated[float, typer.Option(min=0, max=1, help="How much of its adapter.")] = 0.5,
    rest: Annotated[str, typer.Option(help="The φ before: gap, which nobody trained, auto or a file.")] = "gap",
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """Go part of the way back to the φ before: less is won on kinds that it was trained on, less lost on others."""
    from kan.checkpoint.directory import Checkpoint
    from lab.training.run import blend_phi

    with failures_told():
        blend_phi(Checkpoint.open(model_directory(data_dir, model)), start, rest, share, adapter_share, output)
    messages().print(f"wrote {output}", highlight=False)


def _shares(sets: str) -> dict[str, float]:
    """What `--sets` says. Raises typer.BadParameter."""
    parts = [one.split("=") for one in sets.split(",") if one]
    try:
        shares = {name.strip(): float(share) for name, share in parts}
    except ValueError:
        raise typer.BadParameter("name=share, separated by commas", param_hint="--sets") from None
    if not all(0 < share < math.inf for share in shares.values()):
        raise typer.BadParameter("shares are numbers above 0", param_hint="--sets")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
