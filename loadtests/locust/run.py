"""Locust against a server of its own: `python -m loadtests.locust.run` (`make locust`). Report, CSV and plots into a
directory. Ends with 1 if any request failed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from loadtests.client import Target
from loadtests.serving import temporary_server

USERS = Path(__file__).with_name("users.py")
MIXED = ("Chat", "Stream", "Edit", "Leave")
OVERLOAD = ("Overload",)
OVERLOAD_CLIENTS = 20
STOP_SECONDS = 30
"""For clients to get the answers that they wait for."""
ENDING_SECONDS = STOP_SECONDS + 15
"""For Locust, once it is told to end."""
SMALL = {"KALMAGROVE_MAX_RUNNING": "4", "KALMAGROVE_MAX_WAITING": "8"}
"""A server that can be overloaded by clients which the same machine has to run."""


def main(
    data_dir: Annotated[Path, typer.Option(help="Its models are served.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where reports and plots go.")] = Path("out/locust"),
    seconds: Annotated[int, typer.Option(min=5, help="How long each of the two loads lasts.")] = 60,
    clients: Annotated[int, typer.Option(min=4, help="Clients of the mixed load.")] = 8,
) -> None:
    """A mixed load (chats, streams, edits, clients that leave), then more than the server takes."""
    out.mkdir(parents=True, exist_ok=True)
    with temporary_server(data_dir, SMALL) as target:
        status = _locust(target, "mixed", MIXED, clients, seconds, out)
        status |= _locust(target, "overload", OVERLOAD, OVERLOAD_CLIENTS, seconds, out)
    raise typer.Exit(1 if status else 0)


def _locust(target: Target, name: str, users: tuple[str, ...], clients: int, seconds: int, out: Path) -> int:
    """Its exit status: 0, if no request failed."""
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(USERS), "--host", target.url, "--headless"),
        *("--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s"),
        *("--stop-timeout", str(STOP_SECONDS)),
        *("--html", str(out / f"{name}.html"), "--csv", str(out / name), "--csv-full-history", "--only-summary"),
        *users,
    ]
    # Locust puts the directory of its file before the path, not the working directory.
    path = os.pathsep.join([str(USERS.parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")}
    try:
        return run_to_report(command, {**environment, "PYTHONPATH": path})
    finally:
        history = out / f"{name}_stats_history.csv"
        if history.exists():  # else it has said why it did not even begin
            plot(history, out / f"{name}.png")


def run_to_report(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Its exit status. Who ends us ends Locust as well, but not before it has written what it knows: it is out of reach
    of the terminal's Ctrl-C, and told once. A second one ends it at once."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True) as locust:
        try:
            return locust.wait()
        except BaseException:
            locust.send_signal(signal.SIGINT)
            try:
                with suppress(subprocess.TimeoutExpired):
                    locust.wait(ENDING_SECONDS)
            finally:
                locust.kill()
            raise


def plot(history: Path, picture: Path) -> None:
    """Median and 95th percentile of each kind of request, over time, from Locust's CSV."""
    from matplotlib.figure import Figure

    with history.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] != "Aggregated" and row["50%"] != "N/A"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    start = min((int(row["Timestamp"]) for row in rows), default=0)
    for name in sorted({row["Name"] for row in rows}):
        own = [row for row in rows if row["Name"] == name]
        times = [int(row["Timestamp"]) - start for row in own]
        (line,) = axes.plot(times, [float(row["50%"]) for row in own], label=name)
        axes.plot(times, [float(row["95%"]) for row in own], linestyle="--", color=line.get_color())
    axes.set(xlabel="seconds", ylabel="ms (line: median, dashed: 95 %)", yscale="log")
    if rows:
        axes.legend()
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
