"""Facts, hits and history as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from server.cli.targets import DocumentRow, FactRow, HistoryRow, HitRow


def fact_table(fact: FactRow) -> Table:
    table = Table(show_header=False, title=Text(f"{fact.namespace} / {fact.id}"))
    table.add_column()
    table.add_column(overflow="fold")
    # Text, not str: what a fact says is never markup.
    table.add_row("text", Text(fact.text))
    table.add_row("metadata", Text(json.dumps(fact.metadata, ensure_ascii=False)))
    table.add_row("version", str(fact.version))
    table.add_row("created", _time(fact.created_at))
    table.add_row("expires", "never" if fact.expires_at is None else _time(fact.expires_at))
    return table


def hit_table(hits: Sequence[HitRow]) -> Table:
    table = Table("score", "lexical", "id", "text", "version")
    for hit in hits:
        scores = (f"{hit.score:.3f}", f"{hit.lexical:.3f}")
        table.add_row(*scores, Text(hit.fact.id), Text(hit.fact.text), str(hit.fact.version))
    return table


def document_table(rows: Sequence[DocumentRow]) -> Table:
    table = Table("id", "title", "facts", "version", "created")
    for row in rows:
        table.add_row(Text(row.id), Text(row.title or ""), str(row.facts), str(row.version), _time(row.created_at))
    return table


def history_table(rows: Sequence[HistoryRow]) -> Table:
    table = Table("version", "at", "what", "text")
    for row in rows:
        table.add_row(str(row.version), _time(row.at), row.what, Text(row.text or ""))
    return table


def _time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
