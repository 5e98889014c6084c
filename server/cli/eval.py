"""`kalmagrove eval`: does mounted knowledge answer, compared with the same facts in the prompt? What does √n attention
cost? What has a model learned of SCAN?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kan.kernels import KernelsName
from server.cli.console import FAILED, USAGE, CommandError, messages, output, progress_bar
from server.cli.laboratory import failures_told
from server.cli.options import DataDir, model_directory

app = typer.Typer(
    help="Evaluate knowledge: what it adds, and what it must leave alone; √n attention; SCAN.", no_args_is_help=True
)


@app.command()
def knowledge(
    data: Annotated[Path | None, typer.Option("--data", help="Directory of the question sets' files.")] = None,
    phi: Annotated[
        str, typer.Option(help="The φ to evaluate: a file, auto (as served by default), gap or none.")
    ] = "auto",
    sets: Annotated[
        str, typer.Option(help="Question sets of the table.")
    ] = "synthetic,factbook,counterfact,squad,two_fact",
    distractors: Annotated[str, typer.Option(help="Wrong facts mounted beside the right one.")] = "0,3,7,15",
    questions: Annotated[int, typer.Option(min=1, max=10_000, help="Questions per cell.")] = 100,
    dev_questions: Annotated[
        int,
        typer.Option(
            min=0, max=10_000, help="Questions that baselines are tuned and `grounded` is fitted on; 0: none."
        ),
    ] = 60,
    parts: Annotated[
        str, typer.Option(help="What to evaluate.")
    ] = "table,edits,counterfact,locality,grounding,order,retrieval,served",
    conditions: Annotated[str, typer.Option(help="Rows of the table, by name; default: all.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Longest reply.")] = 24,
    seed: Annotated[int, typer.Option(help="Of questions, distractors and intervals.")] = 1,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the report here, and finished cells beside it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the report as a PNG.")] = None,
    grounding: Annotated[
        Path | None, typer.Option("--grounding", help="Write the fitted grounding score here.")
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="Keep the answered questions it is fitted to here, and go on from it."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the cells beside --json; those of another φ are measured anew.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Half a minute: fails unless φ beats no φ. Needs no data.")
    ] = False,
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """Ask held-out questions of the real engine, with the same facts given in different ways.

    Greedy replies; a reply is right if it contains the answer. Every figure comes with a 95 % bootstrap interval.
    """
    with failures_told():
        from lab.evaluation.plan import Files, Plan
        from lab.evaluation.run import Candidate, evaluate_knowledge, smoke_test

        candidate = Candidate(model_directory(data_dir, model), phi)
        if smoke:
            with messages().status("Asking questions …"):
                found = smoke_test(candidate, seed)
            output().print(found.text, highlight=False)
            raise typer.Exit(0 if found.passed else FAILED)
        plan = Plan(
            data=data,
            sets=_names(sets),
            distractors=_counts(distractors, "--distractors"),
            questions=questions,
            dev_questions=dev_questions,
            parts=_names(parts),
            only=_names(conditions),
            seed=seed,
            max_tokens=max_tokens,
            cases=cases,
        )
        files = Files(json=json, plot=plot, grounding=grounding, resume=resume)
        evaluate_knowledge(candidate, plan, files, sys.argv[1:], progress_bar(), output())


@app.command()
def left_out(
    directory: Annotated[
        Path, typer.Argument(help="φs trained alike (make leave-one-out): all, and one under each kind left out.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Directory of the question sets' files.")],
    sets: Annotated[
        str, typer.Option(help="Question sets, each asked of the φ without its kind.")
    ] = "encyclopedia,squad,synthetic,two_fact,names-10k,factbook,counterfact",
    distractors: Annotated[str, typer.Option(help="Wrong facts mounted beside the right one.")] = "0,7",
    questions: Annotated[int, typer.Option(min=1, max=10_000, help="Questions per cell.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Longest reply.")] = 64,
    seed: Annotated[int, typer.Option(help="Of questions, distractors and intervals.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """How φ answers kinds of questions that it was not trained on. Answers are kept in the directory: it resumes."""
    with failures_told():
        from lab.evaluation.left_out import evaluate_left_out
        from lab.evaluation.plan import Plan
        from lab.evaluation.run import Candidate

        plan = Plan(
            data=data,
            sets=_names(sets),
            distractors=_counts(distractors, "--distractors"),
            questions=questions,
            dev_questions=0,
            parts=("table",),
            seed=seed,
            max_tokens=max_tokens,
        )
        candidate = Candidate(model_directory(data_dir, model), "auto")
        evaluate_left_out(directory, candidate, plan, json, sys.argv[1:], progress_bar(), output())


@app.command()
def attention(
    data: Annotated[Path, typer.Option("--data", help="Directory of the texts' files.")],
    blocks: Annotated[str, typer.Option(help="Numbers k of blocks that a row chooses.")] = "80",
    threshold: Annotated[int, typer.Option(min=0, help="Tokens of a context whose rows see everything.")] = 4096,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window of prose.")] = 8192,
    documents: Annotated[int, typer.Option(min=0, max=1000, help="Windows of each kind of prose.")] = 4,
    prose: Annotated[str, typer.Option(help="Kinds of prose.")] = "novels,wikitext",
    retrievals: Annotated[int, typer.Option(min=0, max=500, help="Lists of 75 keys with their values.")] = 8,
    kernels: Annotated[
        KernelsName, typer.Option(help="native (bfloat16), torch (float32), or auto: native where they can be had.")
    ] = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    model: Annotated[str, typer.Option(help="A name under the models directory, or a path.")] = "smollm2-135m",
    data_dir: DataDir = Path("data"),
) -> None:
    """What √n attention costs in quality: perplexity and retrieval in long texts, full attention beside it."""
    with failures_told():
        from lab.evaluation.long_context.run import LongContextPlan, evaluate_attention

        plan = LongContextPlan(
            data, _counts(blocks, "--blocks"), threshold, window, documents, retrievals, kernels, _names(prose)
        )
        evaluate_attention(model_directory(data_dir, model), plan, json, sys.argv[1:], progress_bar(), output())


@app.command()
def scan(
    model: Annotated[
        str, typer.Argument(help="A name under the models directory, a shipped one, or a path.")
    ] = "kan-scan",
    splits: Annotated[str, typer.Option(help="Of SCAN, whose test parts are asked.")] = "add-jump",
    questions: Annotated[int, typer.Option(min=0, help="Commands of each split, drawn at random; 0: all.")] = 0,
    taught: Annotated[bool, typer.Option("--taught", help="Ask again, with verbs that mounted facts teach.")] = False,
    seed: Annotated[int, typer.Option(help="Of the commands and the facts.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    data_dir: DataDir = Path("data"),
) -> None:
    """Which commands of SCAN a model turns into exactly the right actions, by greedy decoding."""
    with failures_told():
        from lab.evaluation.scan.run import ScanPlan, evaluate_scan

        plan = ScanPlan(_names(splits), questions, taught, seed)
        evaluate_scan(model_directory(data_dir, model), plan, json, sys.argv[1:], progress_bar(), output())


@app.command()
def scan_runs(
    runs: Annotated[Path, typer.Argument(help="Directory with runs of `kalmagrove train lm` anywhere below it.")],
    questions: Annotated[int, typer.Option(min=0, help="Commands of each test part, drawn at random; 0: all.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures of every run here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them as a PNG.")] = None,
) -> None:
    """Exact match of every run on the test part of its own split, and how many steps it took to a fixed loss."""
    with failures_told():
        from lab.evaluation.scan.runs import evaluate_runs

        evaluate_runs(runs, questions, json, plot, progress_bar(), output())


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _counts(given: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(count) for count in given.split(",")}))
    except ValueError:
        raise CommandError(f"{option}: {given!r} is no list of numbers", USAGE) from None
