"""Change documents: texts that are split into facts. What stays as it was is neither written nor encoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kb.documents import KEY, Document, DocumentNotFound, Piece, Plan, plan
from kb.errors import InvalidChange
from kb.metadata import has_surrogate
from kb.snapshot import Snapshot
from kb.store import Store
from server.service.access import EVERYTHING, Access
from server.service.account import Account
from server.service.edit_checks import SLICE_FACTS
from server.service.edits import Edited, Edits, Planned
from server.service.errors import InvalidRequest
from server.service.sections import Format
from server.service.splitting import Splitter
from server.settings import Settings

CHARACTERS_PER_TOKEN = 4
"""About what texts have: what is longer than so many for each token of all facts that an edit may have is not split."""
MOST_DELETED = 10_000
"""Facts of a document that is deleted at once."""


@dataclass(frozen=True, slots=True)
class Text:
    """A document as it was sent."""

    id: str
    namespace: str
    text: str
    format: Format = "text"
    metadata: Mapping[str, Any] | None = None
    expires_at: float | None = None
    if_version: int | None = None
    single: bool = False
    """It may be one fact, as a plain one: split only if it must be."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one document."""

    id: str
    namespace: str
    facts: int
    encoded: int
    """Facts with texts that no fact had before, of those that the caller may know of: only these are encoded."""


@dataclass(frozen=True, slots=True)
class DocumentsEdited:
    """An edit that is durable and visible."""

    edited: Edited
    documents: tuple[Written, ...]


class Documents:
    """Belongs to one event loop. Methods raise as those of `Edits` do; what is wrong is told of `param`[index]."""

    def __init__(self, store: Store, edits: Edits, splitter: Splitter, settings: Settings) -> None:
        self._store = store
        self._edits = edits
        self._splitter = splitter
        self._settings = settings

    async def put(
        self,
        caller: str,
        texts: Sequence[Text],
        param: str,
        account: Account | None = None,
        access: Access = EVERYTHING,
    ) -> DocumentsEdited:
        """Add or replace them, all or none."""
        self._check(texts, param)
        job = _Job(self, texts, param, time.monotonic() + self._settings.request_timeout_s, access)
        try:
            edited = await self._edits.apply_planned(caller, texts[0].namespace, job.plan, account, steps=job.steps())
        except InvalidChange as error:
            raise job.of_documents(error) from error
        return DocumentsEdited(edited, job.written)

    async def delete(
        self, caller: str, namespace: str, name: str, if_version: int | None, account: Account | None = None
    ) -> Edited:
        """Delete one, which raises DocumentNotFound if there is none."""

        def planned() -> Planned:
            wanted = plan(self._store.snapshot, Document(name, namespace, (), if_version=if_version))
            if not wanted.changes:
                raise DocumentNotFound(f"There is no document {name!r} in namespace {namespace!r}.")
            return Planned(wanted.changes, wanted.require_current, MOST_DELETED)

        try:
            return await self._edits.apply_planned(caller, namespace, planned, account)
        except InvalidChange as error:
            message = f"id: the document has more than {MOST_DELETED} facts, which is what one edit deletes"
            raise InvalidRequest(message, "id") from error

    def split(self, text: Text, deadline: float) -> Iterator[Piece | None]:
        """Its facts, as `Splitter.split` gives them. Blocks."""
        if text.single and self._splitter.fits(text.text):
            return iter([Piece(text.text, 0)])
        return self._splitter.split(text.text, text.format, deadline)

    @property
    def snapshot(self) -> Snapshot:
        """The newest."""
        return self._store.snapshot

    def encoded(self, one: Plan, access: Access) -> int:
        """How many texts of it are new. What others' namespaces say, a bound key is not told: so it is asked of the
        document alone."""
        return sum(text not in self._store.texts for text in one.new_texts) if access.whole else len(one.new_texts)

    @property
    def most_facts(self) -> int:
        """Of one edit."""
        return self._settings.max_batch_facts

    def _check(self, texts: Sequence[Text], param: str) -> None:
        longest = self.most_facts * self._settings.max_fact_tokens * CHARACTERS_PER_TOKEN
        seen: dict[tuple[str, str], int] = {}
        for index, text in enumerate(texts):
            here = f"{param}[{index}]"
            if len(text.text) > longest:
                raise InvalidRequest(f"{here}.text: has {len(text.text)} characters; at most {longest}", f"{here}.text")
            if has_surrogate(text.text):
                raise InvalidRequest(f"{here}.text: must not contain lone surrogates", f"{here}.text")
            if KEY in (text.metadata or {}) and not text.single:
                path = f"{here}.metadata.{KEY}"
                raise InvalidRequest(f"{path}: is where the server notes what document a fact is of", path)
            first = seen.setdefault((text.namespace, text.id), index)
            if first != index:
                raise InvalidRequest(f"{here}.id: is also that of {param}[{first}]", f"{here}.id")


class _Job:
    """One edit of documents: split once, planned as often as it takes."""

    def __init__(
        self, documents: Documents, texts: Sequence[Text], param: str, deadline: float, access: Access
    ) -> None:
        self._access = access
        self._documents = documents
        self._texts = texts
        self._param = param
        self._deadline = deadline
        self._left = documents.most_facts
        self._split: list[Document] = []
        self._origins: list[int] = []
        """Of each change: which document it is of."""
        self.written: tuple[Written, ...] = ()

    def steps(self) -> Iterator[None]:
        """Splits the texts, some facts at a time: others get their turn in between. Blocks."""
        for index, text in enumerate(self._texts):
            pieces: list[Piece] = []
            for piece in self._pieces(index, text):
                if piece is not None:
                    pieces.append(piece)
                if piece is None or len(pieces) % SLICE_FACTS == 0:
                    yield
            if not pieces:
                here = f"{self._param}[{index}].text"
                raise InvalidRequest(f"{here}: must not be empty: it holds nothing that can be read", here)
            self._split.append(self._document(text, pieces, index))

    def plan(self) -> Planned:
        """What is to be changed for them now. Blocks."""
        snapshot = self._documents.snapshot
        plans = [plan(snapshot, document, index) for index, document in enumerate(self._split)]
        self._origins = [index for index, one in enumerate(plans) for _ in one.changes]
        self.written = tuple(map(self._outcome, plans))
        changes = [change for one in plans for change in one.changes]

        def require(current: Snapshot) -> None:
            for one in plans:
                one.require_current(current)

        # As much again as it may write: what was there before goes in the same edit.
        return Planned(changes, require, 2 * self._documents.most_facts)

    def of_documents(self, error: InvalidChange) -> InvalidRequest:
        """The same, told of what was sent."""
        first = error.problems[0]
        if first.field == "changes":
            more = "more facts are written and deleted than one edit may change; send fewer documents at once"
            return InvalidRequest(f"{self._param}: {more}", self._param)
        path = f"{self._param}[{self._origins[first.index]}].{first.field}"
        return InvalidRequest(f"{path}: {first.message}", path)

    def _pieces(self, index: int, text: Text) -> Iterator[Piece | None]:
        """Raises InvalidRequest for more than there may be, and for a text that cannot be read."""
        most, here = self._documents.most_facts, f"{self._param}[{index}].text"
        try:
            for piece in self._documents.split(text, self._deadline):
                self._left -= piece is not None
                if self._left < 0:
                    before = " with those before it" if index else ""
                    raise ValueError(f"makes{before} more than {most} facts, which one edit may have")
                yield piece
        except ValueError as error:
            raise InvalidRequest(f"{here}: {error}", here) from error

    def _document(self, text: Text, pieces: Sequence[Piece], index: int) -> Document:
        metadata = dict(text.metadata or {})
        if len(pieces) > 1 and KEY in metadata:
            path = f"{self._param}[{index}].metadata.{KEY}"
            raise InvalidRequest(f"{path}: is where the server notes what document a fact is of", path)
        return Document(text.id, text.namespace, pieces, metadata, text.expires_at, text.if_version, single=text.single)

    def _outcome(self, one: Plan) -> Written:
        encoded = self._documents.encoded(one, self._access)
        return Written(one.document.id, one.document.namespace, one.facts, encoded)
