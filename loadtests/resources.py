"""What a server holds on to while it runs, sampled over time, and how fast that grows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtests.client import ServerClient

MIB = 2.0**20
RSS, HANDLES, THREADS, PAGES = "RSS (MiB)", "file handles", "threads", "pages in use"


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per hour, with a 95 % interval."""

    per_hour: float
    low: float
    high: float


@dataclass(slots=True)
class Samples:
    """Values by name, each at the same moments."""

    seconds: list[float] = field(default_factory=list)
    """Since the first sample."""
    values: dict[str, list[float]] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    async def take(self, client: ServerClient, pid: int | None) -> None:
        """One sample from /metrics and, where the process is known, from /proc. Raises RequestError, OSError."""
        now = read_metrics(await client.metrics())
        if pid is not None:
            now |= read_process(Path("/proc") / str(pid))
        self.seconds.append(time.monotonic() - self._started)
        for name, value in now.items():
            self.values.setdefault(name, []).append(value)

    def settled(self, share: float) -> Samples:
        """Without the first `share` of the time."""
        if not self.seconds:
            return Samples()
        first = next(i for i, at in enumerate(self.seconds) if at >= share * self.seconds[-1])
        return Samples(self.seconds[first:], {name: values[first:] for name, values in self.values.items()})


def read_metrics(exposition: str) -> dict[str, float]:
    """Memory, file handles and pages of an exposition text."""
    gauges = _gauges(exposition)
    pages = {use: gauges.get(f"kalmagrove_pages:{use}", 0.0) for use in ("context", "knowledge")}
    return {
        RSS: gauges["kalmagrove_process_resident_memory_bytes"] / MIB,
        HANDLES: gauges["kalmagrove_process_open_fds"],
        PAGES: sum(pages.values()),
    }


def held_by_requests(exposition: str) -> Mapping[str, float]:
    """What must be zero on an idle server."""
    gauges = _gauges(exposition)
    names = ("kalmagrove_requests_running", "kalmagrove_requests_waiting", "kalmagrove_pages:context")
    return {name: gauges.get(name, 0.0) for name in names}


def _gauges(exposition: str) -> dict[str, float]:
    """By name, and `name:use` for pages."""
    return {
        ":".join([sample.name, *([sample.labels["use"]] if "use" in sample.labels else [])]): sample.value
        for family in text_string_to_metric_families(exposition)
        if family.type == "gauge"
        for sample in family.samples
    }


def read_process(directory: Path) -> dict[str, float]:
    """Threads of a process, by its directory under /proc. Raises OSError."""
    for line in (directory / "status").read_text("utf-8").splitlines():
        if line.startswith("Threads:"):
            return {THREADS: float(line.split()[1])}
    return {}


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Theil and Sen's: the median of the slopes between all pairs, which a few outliers do not move.

    None for fewer than five values.
    """
    from scipy.stats import theilslopes

    if len(values) < 5:
        return None
    found = theilslopes(values, [at / 3600 for at in seconds], 0.95)
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope))
