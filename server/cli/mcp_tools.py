"""What `kalmagrove mcp` offers to agents: each tool is one call, or two, of the client that the `kb` commands use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from itertools import islice
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import TypedDict
from ulid import ULID

from server.cli.console import CommandError
from server.cli.remote import ServerTarget
from server.cli.targets import FactRow, NewFact

P = ParamSpec("P")
T = TypeVar("T")
INSTRUCTIONS = (
    "Facts that a language model server answers from. A fact is one or two plain sentences that can be understood "
    "alone. Search before you add; edit a fact that has changed rather than add another. An edit is seen by every "
    "answer that begins after it. If a fact was changed by somebody else meanwhile, an edit fails: read it again."
)
Namespace = Annotated[str | None, Field(description="Namespace; leave out for the usual one.")]
FactId = Annotated[str, Field(description="The fact's id.")]
Text = Annotated[str, Field(description="The fact, as a sentence that can be understood alone.", min_length=1)]
Expected = Annotated[
    int | None, Field(description="The fact's version as you read it: fails if it is another one by now.", ge=1)
]
DocumentId = Annotated[str, Field(description="The document's id, such as its path.", min_length=1)]
Metadata = Annotated[dict[str, Any] | None, Field(description="What filters can ask for, by name.")]
Filter = Annotated[
    dict[str, Any] | None,
    Field(
        description='Only facts whose metadata satisfies it: {"town": {"eq": "Velm"}, "year": {"gte": 1990}}. '
        "Operators: eq, ne, in, gt, gte, lt, lte, exists; and, or, not. A document's facts have document.id."
    ),
]
Limit = Annotated[int, Field(ge=1, le=100)]


class FoundFact(TypedDict):
    """A fact, and how well it fits the question."""

    id: str
    namespace: str
    text: str
    metadata: dict[str, Any]
    version: int
    score: float
    """By meaning."""
    lexical: float
    """By words."""


class HeldFact(TypedDict):
    """A fact as it is."""

    id: str
    namespace: str
    text: str
    metadata: dict[str, Any]
    expires_at: float | None
    """Unix seconds; null: never."""
    version: int


class Edited(TypedDict):
    """Durable, and seen by every answer from now on."""

    id: str
    namespace: str
    version: int


class DocumentAdded(TypedDict):
    """Durable, and seen by every answer from now on."""

    id: str
    namespace: str
    facts: int
    """That the document has now."""
    encoded: int
    """How many of them are new."""


class DocumentDeleted(TypedDict):
    """Gone from every answer that begins after this."""

    id: str
    namespace: str
    version: int
    deleted: int
    """Facts."""


class HeldDocument(TypedDict):
    """A document as it is."""

    id: str
    title: str | None
    facts: int
    version: int


class PastVersion(TypedDict):
    """What one version did, newest first."""

    version: int
    at: float
    """Unix seconds."""
    what: str
    text: str | None


def tool_server(target: ServerTarget, namespace: str | None = None, *, read_only: bool = False) -> MCPServer[Any]:
    """Speaks to the server when a tool is called, not before. `namespace`: of calls that name none."""
    server: MCPServer[Any] = MCPServer("kalmagrove", instructions=INSTRUCTIONS, log_level="WARNING")
    tools = _Tools(target, namespace)
    for reading in (tools.search, tools.get, tools.history, tools.documents):
        annotations = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        server.add_tool(_told(reading), annotations=annotations)
    edits = (tools.add, tools.edit, tools.delete, tools.add_document, tools.delete_document)
    for editing in () if read_only else edits:
        destructive = editing != tools.add
        annotations = ToolAnnotations(read_only_hint=False, destructive_hint=destructive, open_world_hint=False)
        server.add_tool(_told(editing), annotations=annotations)
    return server


class _Tools:
    """The methods' names and docstrings are what the agent reads. Each may run on a thread of its own."""

    def __init__(self, target: ServerTarget, namespace: str | None) -> None:
        self._target = target
        self._namespace = namespace

    def search(
        self,
        query: Annotated[str, Field(description="A question, or words.", min_length=1)],
        namespace: Namespace = None,
        top_k: Annotated[int, Field(description="Most facts to find.", ge=1, le=64)] = 8,
        filter: Filter = None,
    ) -> list[FoundFact]:
        """Find the facts that answer a question, best first; by meaning and by words."""
        where = None if filter is None else json.dumps(filter)
        hits = self._target.search(self._within(namespace), query, top_k, None, None, where)
        return [
            {
                "id": hit.fact.id,
                "namespace": hit.fact.namespace,
                "text": hit.fact.text,
                "metadata": hit.fact.metadata,
                "version": hit.fact.version,
                "score": hit.score,
                "lexical": hit.lexical,
            }
            for hit in hits
        ]

    def get(self, id: FactId, namespace: Namespace = None) -> HeldFact:
        """Read one fact."""
        return _held(self._target.get(self._within(namespace), id))

    def history(
        self,
        id: Annotated[str | None, Field(description="A fact's id; leave out for the changes of all.")] = None,
        namespace: Namespace = None,
        limit: Limit = 20,
    ) -> list[PastVersion]:
        """What was ever said under an id, or what was changed at all, newest first."""
        rows = self._target.history(self._within(namespace), id, limit, None)
        return [{"version": row.version, "at": row.at, "what": row.what, "text": row.text} for row in rows]

    def add(
        self,
        text: Text,
        id: Annotated[str | None, Field(description="A new id; leave out for a random one.")] = None,
        namespace: Namespace = None,
        metadata: Metadata = None,
    ) -> Edited:
        """Add a new fact. Fails if there is one with this id."""
        within = self._within(namespace)
        fact = NewFact(id or str(ULID()), within, text, metadata or {}, None, 0)
        return {"id": fact.id, "namespace": within, "version": self._target.put(fact).version}

    def edit(self, id: FactId, text: Text, namespace: Namespace = None, if_version: Expected = None) -> Edited:
        """Change what a fact says; its metadata and its end stay. Fails if there is no such fact, or if somebody else
        changed it meanwhile."""
        old = self._target.get(self._within(namespace), id)
        fact = NewFact(id, old.namespace, text, old.metadata, old.expires_at, if_version or old.version)
        return {"id": id, "namespace": old.namespace, "version": self._target.put(fact).version}

    def delete(self, id: FactId, namespace: Namespace = None, if_version: Expected = None) -> Edited:
        """Delete a fact. No answer that begins after this is drawn from it."""
        within = self._within(namespace)
        return {"id": id, "namespace": within, "version": self._target.delete(within, id, if_version).version}

    def documents(
        self,
        namespace: Namespace = None,
        limit: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> list[HeldDocument]:
        """List documents by id: texts that were split into facts."""
        rows = islice(self._target.documents(self._within(namespace)), limit)
        return [{"id": row.id, "title": row.title, "facts": row.facts, "version": row.version} for row in rows]

    def add_document(
        self,
        id: DocumentId,
        text: Annotated[str, Field(description="All of it; it is split at headings and sentences.", min_length=1)],
        format: Literal["text", "markdown", "html"] = "text",
        namespace: Namespace = None,
        metadata: Metadata = None,
    ) -> DocumentAdded:
        """Split a text into facts. In place of all that a document of this id had before."""
        within = self._within(namespace)
        written = self._target.put_document(id, within, text, format, metadata or {})
        return {"id": id, "namespace": within, "facts": written.facts, "encoded": written.encoded}

    def delete_document(
        self, id: DocumentId, namespace: Namespace = None, if_version: Expected = None
    ) -> DocumentDeleted:
        """Delete a document with all of its facts."""
        within = self._within(namespace)
        written = self._target.delete_document(within, id, if_version)
        return {"id": id, "namespace": within, "version": written.version, "deleted": written.deleted}

    def _within(self, namespace: str | None) -> str:
        """Asked for once, when it is first needed."""
        if namespace is None and self._namespace is None:
            self._namespace = self._target.home()
        return namespace or self._namespace or ""


def _held(fact: FactRow) -> HeldFact:
    held = asdict(fact)
    return {
        "id": held["id"],
        "namespace": held["namespace"],
        "text": held["text"],
        "metadata": held["metadata"],
        "expires_at": held["expires_at"],
        "version": held["version"],
    }


def _told(tool: Callable[P, T]) -> Callable[P, T]:
    """What the server refuses is the tool's answer, in the server's words."""

    @wraps(tool)
    def called(*given: P.args, **named: P.kwargs) -> T:
        with _as_tool_error():
            return tool(*given, **named)

    return called


@contextmanager
def _as_tool_error() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise ToolError(str(error)) from error
