"""What is told of every change that readers can see, and to whom."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kb.snapshot import Snapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """A change of content that became visible."""

    snapshot: Snapshot
    """The state after it."""
    kind: str
    """"edit", "rollback" or "expiry"."""
    upserted: int
    deleted: int
    gone_texts: tuple[str, ...]
    """Texts that no fact holds any more."""
    set_texts: tuple[str, ...]
    """Texts of the facts that were inserted or changed."""

    @property
    def version(self) -> int:
        """The version that the change made."""
        return self.snapshot.version


Subscriber: TypeAlias = Callable[[Published], None]


class Subscribers:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_subscription: dict[object, Subscriber] = {}  # replaced, never changed: `tell` takes no lock

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Has `subscriber` told from now on, until the function returned is called."""
        subscription = object()
        with self._lock:
            self._by_subscription = {**self._by_subscription, subscription: subscriber}

        def end() -> None:
            with self._lock:
                kept = self._by_subscription.items()
                self._by_subscription = {one: other for one, other in kept if one is not subscription}

        return end

    def tell(self, published: Published) -> None:
        """Tells everyone, whatever some of them raise: the change is a fact by now."""
        for subscriber in self._by_subscription.values():
            try:
                subscriber(published)
            except Exception:
                _log.exception("a subscriber failed at version %d", published.version)
