"""Where training computes."""

from __future__ import annotations

import torch


def training_device() -> torch.device:
    """A CUDA device if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
