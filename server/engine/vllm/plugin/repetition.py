"""The repetition penalty over context and generated tokens: vLLM's own would count the mounted facts as said."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

PENALTY = "kalmagrove_repetition_penalty"
KNOWLEDGE = "kalmagrove_knowledge_tokens"
"""Keys in a request's `extra_args`: the penalty, and how many of the prompt's first tokens are knowledge."""


class ContextRepetitionPenalty(AdapterLogitsProcessor):  # type: ignore[misc]
    """For requests that mount facts; the others use vLLM's own."""

    def is_argmax_invariant(self) -> bool:
        """A penalty changes which token is the best."""
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        """What applies to one request, or None."""
        extra = params.extra_args or {}
        return partial(_penalise, extra[PENALTY], extra[KNOWLEDGE]) if PENALTY in extra else None


def _penalise(penalty: float, knowledge: int, prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
    """logits [vocabulary], of tokens said so far: divided by `penalty` where positive, multiplied where negative."""
    said = torch.tensor(sorted({*prompt[knowledge:], *output}), device=logits.device)
    chosen = logits[said]
    logits[said] = torch.where(chosen > 0, chosen / penalty, chosen * penalty)
    return logits
