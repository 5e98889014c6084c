"""Linear layers of a torch module with weights laid out once for the processor.

oneDNN otherwise lays them out anew in every call, which for one short text costs more than the products themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PACKABLE = (torch.bfloat16, torch.float32)


class PackedLinear(nn.Module):
    """A linear layer of weight [out, in], for inference on the CPU only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer inside `module` for which oneDNN has a kernel; the others stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and _packable(child.weight):
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)


def _packable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _PACKABLE and bool(torch._C._has_mkldnn)
