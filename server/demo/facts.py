"""The facts of the demo, from the package's own file."""

from __future__ import annotations

import importlib.resources

from kb.facts import Limits, Upsert
from kb.ndjson import read_batches


def demo_facts(limits: Limits | None = None) -> list[Upsert]:
    """As changes that a store with these limits takes, in the order of the file."""
    lines = importlib.resources.files("server.demo").joinpath("facts.ndjson").read_bytes()
    changes = [change for batch in read_batches([lines], limits=limits) for change in batch.changes]
    return [change for change in changes if isinstance(change, Upsert)]
