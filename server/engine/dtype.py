"""Which number format a model is computed in on a CPU."""

from __future__ import annotations

import torch

from server.engine.paged.options import DtypeName


def choose_dtype(name: DtypeName) -> torch.dtype:
    """`auto`: bfloat16 where the processor multiplies it natively, else float32."""
    if name == "auto":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[name]
