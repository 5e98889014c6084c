"""What a layer computes besides its matrix products, behind one protocol (`operations.py`): by torch, or compiled.

Attention has a signature of its own (`kan.attention.Kernel`): `reference` is the truth in float64, `cpu` is torch's.
"""

from typing import Literal

KernelsName = Literal["auto", "native", "torch"]
"""What may be asked for; `choice.py` says what it means."""
