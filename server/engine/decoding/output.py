"""From a sampled token to what the client sees of it."""

from __future__ import annotations

from collections.abc import Container

from server.engine.decoding.sampling import SampledToken
from server.engine.paged.sequence import Generation
from server.engine.protocol import FinishReason, TokenChunk


def advance(
    generation: Generation, sampled: SampledToken, end_tokens: Container[int], layers_and_heads: int
) -> TokenChunk:
    """Append the token to the generation and make its chunk; the last one carries the finish reason.

    An end token counts as generated but has neither text nor a log probability: it is not content.
    """
    sampling = generation.request.sampling
    generation.tokens.append(sampled.token_id)
    generation.generated += 1
    ended = sampled.token_id in end_tokens and not sampling.ignore_eos
    piece = "" if ended else generation.detokenizer.feed(sampled.token_id)
    text, stopped = generation.stops.push(piece)
    finish: FinishReason | None = None
    if ended or stopped:
        finish = "stop"
    elif generation.generated >= sampling.max_tokens:
        finish = "length"
    if finish is not None and not stopped:
        text, finish = _release_held(generation, text, finish)
    first = not generation.started
    generation.started = True
    return TokenChunk(
        text=text,
        token_ids=(sampled.token_id,),
        logprobs=None if sampled.logprob is None else (() if ended else (sampled.logprob,)),
        prompt_logprobs=tuple(generation.prompt_logprobs or ()) or None if first else None,
        finish_reason=finish,
        attention=None if finish is None else generation.attention_shares(layers_and_heads),
        queue_seconds=generation.queued if first else None,
    )


def _release_held(generation: Generation, text: str, finish: FinishReason) -> tuple[str, FinishReason]:
    """Nothing more will come: show what was held back, unless it completes a stop string after all."""
    tail, stopped = generation.stops.push(generation.detokenizer.flush())
    if stopped:
        return text + tail, "stop"
    return text + tail + generation.stops.finish(), finish
