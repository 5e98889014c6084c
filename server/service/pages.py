"""Which K/V pages belong to a fact, and when they are no longer needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kan.prompt import PromptBuilder
from kb.facts import Upsert
from kb.publishing import Published
from kb.snapshot import Hit, Snapshot
from kb.store import Store
from server.engine.protocol import Engine, FactTokens


class FactPages:
    """Thread-safe. From its making on, pages are forgotten as soon as no fact has their text."""

    def __init__(self, store: Store, engine: Engine, prompt: PromptBuilder) -> None:
        self._store = store
        self._engine = engine
        self._prompt = prompt
        store.subscribe(self._follow)

    def key(self, text: str) -> str:
        """The name of the pages of a fact with this text."""
        return self._prompt.fact_key(self._engine.info.model_fingerprint, text)

    def tokens(self, text: str) -> FactTokens:
        """The fact as the engine takes it. Blocks for as long as it takes to split the text."""
        return FactTokens(self.key(text), self._prompt.fact(text))

    def made(self, text: str) -> bool:
        """Whether the pages of a fact with this text are there."""
        return self._engine.has_pages(self.key(text))

    def expect(self, facts: Sequence[FactTokens]) -> None:
        """A request is about to mount them. Blocks for as long as it takes to open their files."""
        self._engine.expect([fact.key for fact in facts])

    def reconcile(self) -> None:
        """Forget all pages that no fact needs, whoever left them: for the start. Blocks."""
        self._engine.reconcile({self.key(text) for text in self._store.snapshot.texts()})

    def forget_refused(self, changes: Sequence[Upsert]) -> None:
        """An edit that did not happen leaves no pages behind, except of facts that are as it wanted them already.

        A text that another fact holds is forgotten too: its pages are made again when that fact is next mounted.
        """
        snapshot = self._store.snapshot
        self._forget(one.text for one in changes if not _holds(snapshot, one.namespace, one.id or "", one.text))

    def forget_read(self, version: int, hits: Sequence[Hit]) -> None:
        """A request that mounted these facts of this version has ended. What was deleted meanwhile may have had its
        pages made again for it."""
        snapshot = self._store.snapshot
        if snapshot.version != version:
            facts = [hit.fact for hit in hits]
            self._forget(one.text for one in facts if not _holds(snapshot, one.namespace, one.id, one.text))

    def _follow(self, published: Published) -> None:
        self._forget(published.gone_texts)

    def _forget(self, texts: Iterable[str]) -> None:
        keys = [self.key(text) for text in texts]
        if keys:
            self._engine.forget(keys)


def _holds(snapshot: Snapshot, namespace: str, fact_id: str, text: str) -> bool:
    held = snapshot.find(namespace, fact_id)
    return held is not None and held.text == text
