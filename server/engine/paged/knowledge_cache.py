"""Facts whose pages are resident: an LRU over the page pool, with files behind it.

Owned by the engine's thread. An entry's pages hold one reference of the cache itself and one per generation that mounts
them, so a fact that was evicted stays readable to those. What may stay at all, `server.engine.pages.life` knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from kan.kernels.operations import Cache
from kan.knowledge.adapter import Adapter
from kan.knowledge.pages import PageContent, Stored
from kan.model import KANModel
from kan.page_pool import PagePool
from kan.rope import rotate
from server.engine.paged.page_form import PageForm
from server.engine.paged.sequence import Encoding
from server.engine.pages.files import PageFiles
from server.engine.pages.life import State
from server.engine.protocol import FactTokens


class KnowledgeCache:
    """`adapter` updates what goes into the cache; what goes to disk is the plain model's, whatever was learned."""

    def __init__(
        self,
        model: KANModel,
        cache: Cache,
        pool: PagePool,
        files: PageFiles,
        adapter: Adapter | None,
        form: PageForm,
    ) -> None:
        self._model = model
        self._cache = cache
        self._pool = pool
        self._files = files
        self.life = files.life
        self.form = form
        self._adapter = None if adapter is None else adapter.to(model.dtype)
        self._entries: OrderedDict[str, list[int]] = OrderedDict()
        self.first_position = 0
        """Position of every fact's first token: the length of the preamble."""

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def available(self, key: str) -> bool:
        """Resident or on disk."""
        return key in self._entries or self.life.is_stored(key)

    def touch(self, key: str) -> None:
        self._entries.move_to_end(key)

    def mount(self, facts: Sequence[FactTokens]) -> list[list[int]]:
        """Pages of each (resident) fact, with a reference added for the reader."""
        mounted = [self._entries[fact.key] for fact in facts]
        for fact, pages in zip(facts, mounted, strict=True):
            self._pool.retain(pages)
            self.touch(fact.key)
        return mounted

    def make_room(self, pages: int) -> bool:
        """Evict unread entries, the longest unused first, until `pages` pages are free."""
        if self._pool.free >= pages:
            return True
        for key in list(self._entries):
            if self._pool.references(self._entries[key][0]) == 1:
                self._drop(key)
                self.life.evicted(key)
                if self._pool.free >= pages:
                    return True
        return False

    def load(self, fact: FactTokens) -> bool:
        """Bring a fact in from disk. False if it is not there, damaged, or there is no room."""
        needed = self.form.pages(len(fact.tokens))
        if not self.life.is_stored(fact.key) or not self.make_room(needed):
            return False
        config = self._model.config
        shape = (config.num_layers, len(fact.tokens), config.num_kv_heads, config.head_dim)
        stored = self._files.read(fact.key, partial(self.form.read, shape=shape))
        if stored is None:
            return False
        pages = self._pool.allocate(needed, "knowledge")
        self._install(stored, pages)
        self._publish(fact.key, pages)
        return True

    def admit(self, encoding: Encoding) -> None:
        """A finished encoding's pages become the entry; its content goes to disk unless the fact was forgotten."""
        key = encoding.fact.key
        pages, encoding.pages = encoding.pages, []
        stored = cache(partial(self._stored, encoding.captured))
        # A fact's own tokens attended to plain keys and values; its readers do not.
        if self._adapter is not None or self.form.small:
            needed = self.form.pages(len(encoding.tokens))
            self._pool.release(pages[needed:])
            del pages[needed:]
            self._install(stored(), pages)
        self._publish(key, pages)
        if encoding.bulk and key in self._entries and not self.life.is_read(key):
            self._entries.move_to_end(key, last=False)  # nobody asked for it yet: it is the first to give way
        if self.life.state(key) is State.MADE:
            self._files.write(key, stored)

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what nobody reads or makes, here and on disk; the rest goes with its last reader."""
        for key in self.life.forget(keys):
            self._drop(key)

    def read(self, keys: Sequence[str]) -> None:
        """Somebody waits for these facts, or has mounted them: `unread` will follow."""
        self.life.read(keys)

    def unread(self, keys: Sequence[str]) -> None:
        """He is done; what was forgotten meanwhile goes."""
        for key in self.life.unread(keys):
            self._drop(key)

    def reconcile(self, held: Collection[str]) -> None:
        """Forget every fact whose key is not among `held`, unless another process may hold it."""
        if not self._files.alone():
            return
        for key in self.life.forget_all_but(held):
            self._drop(key)
        self._files.reconcile(held)

    def clear(self) -> None:
        """Drop everything from memory, and see what is on disk."""
        for key in list(self._entries):
            self._drop(key)
            self.life.evicted(key)
        self._files.reconcile()

    def audit(self, preamble: Sequence[int], held: Collection[str] | None) -> None:
        """With no readers: every knowledge page is the preamble's or one entry's, with one reference; and every entry
        is of a fact whose key is among `held`."""
        self.life.audit(held)
        pages = [*preamble, *(page for entry in self._entries.values() for page in entry)]
        assert len(pages) == len(set(pages)) == self._pool.used("knowledge"), "knowledge pages do not add up"
        assert all(self._pool.references(page) == 1 for page in pages), "a knowledge page is held by nobody known"

    def _publish(self, key: str, pages: list[int]) -> None:
        self._pool.publish(pages)
        self._entries[key] = pages
        if not self.life.resident(key):  # nobody has a use for it any more
            self._drop(key)

    def _drop(self, key: str) -> None:
        pages = self._entries.pop(key, None)
        if pages is not None:
            self._pool.release(pages)

    def _stored(self, captured: list[list[tuple[Tensor, Tensor]]]) -> Stored:
        return self.form.stored(_assemble(captured))

    def _install(self, stored: Stored, pages: list[int]) -> None:
        content = stored.content(self._model.dtype)  # what readers get is the same, from disk or just made
        if self._adapter is not None:
            content = self._adapter(content)
        positions = torch.arange(self.first_position, self.first_position + content.tokens)
        keys = rotate(content.keys, *self._model.rotary.at(positions))
        self.form.write(self._cache, pages, keys, content.values)


def _assemble(captured: list[list[tuple[Tensor, Tensor]]]) -> PageContent:
    """Join what was captured per chunk and layer: [layers, tokens, H_kv, d]."""
    chunks = [
        (torch.stack([keys for keys, _ in layers]), torch.stack([values for _, values in layers]))
        for layers in captured
    ]
    if len(chunks) == 1:  # most facts: an edit waits for this
        return PageContent(*chunks[0])
    keys, values = zip(*chunks, strict=True)
    return PageContent(torch.cat(keys, dim=1), torch.cat(values, dim=1))
