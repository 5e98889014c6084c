"""What computes a model, behind one protocol (`operations.py`): torch, or the compiled library (`native`).

`reference` is attention in float64, written plainly: the truth that both are compared with.
"""

from typing import Literal

KernelsName = Literal["auto", "native", "torch"]
"""What may be asked for; `choice.py` says what it means."""
