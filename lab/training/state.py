"""The state of a training run on disk."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lab.errors import ResumeError


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Atomically, and synced to disk: a run cut off while saving finds the state before."""
    staged = path.with_suffix(".new")
    with staged.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def load_state(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `save_state` wrote; its "options" must be these.

    Raises ResumeError for a file that is damaged, or of a run with other options.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ResumeError(f"{path}: cannot be read ({error})") from error
    if state["options"] != dict(options):
        raise ResumeError(f"{path}: a run with other options; they cannot be changed half-way")
    return state
