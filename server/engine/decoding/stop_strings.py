"""Stop strings, found wherever the text was cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a text before the stop string that is complete first; of those that end together, the longest.

    That is known the moment the stop string ends: it depends on the text alone, not on its pieces, and
    nothing is generated only to learn whether a longer stop string follows.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Raises ValueError for an empty stop string."""
        if "" in stop:
            raise ValueError("stop: an empty string would stop everything")
        self._stop = tuple(stop)
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show, and whether a stop string was found. Nothing comes after that."""
        if self._stopped:
            return "", True
        pending = self._held + text
        cut = self._first_stop(pending)
        if cut is not None:
            self._held, self._stopped = "", True
            return pending[:cut], True
        safe = len(pending) - self._possible_start(pending)
        self._held = pending[safe:]
        return pending[:safe], False

    def finish(self) -> str:
        """What was held back: the text ended, so it began no stop string."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        """Where the first complete stop string starts."""
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
