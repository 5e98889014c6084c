"""What every importer makes, whatever it read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kan.config import KANConfig

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
"""Called with (tensors read, tensors in all)."""


class ModelImportError(Exception):
    """A source that cannot be found, read or represented; the message names what stood in the way."""


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model in memory, under this project's names, ready to be written."""

    config: KANConfig
    tensors: dict[str, torch.Tensor]
    tokenizer_json: str
    chat_template: str | None


def no_progress(done: int, total: int) -> None:
    """For callers that do not care."""
