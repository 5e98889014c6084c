"""One choice from logits to text: what both engines keep of it, whatever happens to its pages."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch

from server.engine.decoding.detokenizer import IncrementalDetokenizer, TokenBytes
from server.engine.decoding.grammar import Constraint
from server.engine.decoding.sampling import SampledToken, Sampler
from server.engine.decoding.stop_strings import StopStrings
from server.engine.protocol import FinishReason, SamplingParams, TokenChunk, TokenLogprob


class Choice:
    """Sampler, penalties, grammar, stop strings, detokeniser and log probabilities of one sequence."""

    def __init__(
        self,
        sampling: SamplingParams,
        prompt: Sequence[int],
        tokenizer: TokenBytes,
        end_tokens: Container[int],
        constraint: Constraint | None = None,
    ) -> None:
        """`constraint`: of the request's grammar, unless the engine follows that by itself."""
        self.sampling = sampling
        self.constraint = constraint
        self.generated = 0
        """Tokens so far."""
        self._prompt = prompt
        self._end_tokens: Container[int] = () if sampling.ignore_eos and not sampling.grammar else end_tokens
        self._sampler = Sampler(sampling, prompt)
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stops = StopStrings(sampling.stop)
        self._prompt_logprobs: list[TokenLogprob | None] = [None]

    @property
    def scores_prompt(self) -> bool:
        """Whether log probabilities of prompt tokens are still to be found."""
        return self.sampling.prompt_logprobs is not None and not self.generated

    @property
    def plain_greedy(self) -> bool:
        """See `Sampler.plain_greedy`."""
        return self.constraint is None and self._sampler.plain_greedy

    @property
    def tells_logprob(self) -> bool:
        """See `Sampler.tells_logprob`."""
        return self._sampler.tells_logprob

    def sample(self, logits: torch.Tensor) -> SampledToken:
        """See `Sampler.sample`: `advance` is to follow. Waits for the grammar's mask; raises GrammarTooComplex."""
        return self._sampler.sample(logits, None if self.constraint is None else self.constraint.mask.result())

    def unscored(self, start: int, end: int) -> tuple[int, Sequence[int]]:
        """Of the prompt's rows [start, end) just computed: the first that is not scored yet (after a preemption the
        same rows come again), and the tokens that it and those behind it predict."""
        first = max(start, len(self._prompt_logprobs) - 1)
        return first, self._prompt[first + 1 : end + 1]

    def score_prompt(self, logprobs: Sequence[TokenLogprob | None]) -> None:
        """Log probabilities of the prompt's next tokens; the first token has none."""
        self._prompt_logprobs += logprobs

    def advance(self, sampled: SampledToken) -> TokenChunk:
        """The token's chunk; the last one carries the finish reason.

        An end token counts as generated but has neither text nor a log probability: it is not content.
        """
        first = self.scores_prompt
        self.generated += 1
        ended = sampled.token_id in self._end_tokens
        text, stopped = self._stops.push("" if ended else self._detokenizer.feed(sampled.token_id))
        finish = self._finish(ended or stopped)
        if finish is not None and not stopped:
            text, finish = self._release_held(text, finish)
        if finish is None and self.constraint is not None:
            self.constraint.accept(sampled.token_id)
        return TokenChunk(
            text=text,
            token_ids=(sampled.token_id,),
            logprobs=None if sampled.logprob is None else (() if ended else (sampled.logprob,)),
            prompt_logprobs=tuple(self._prompt_logprobs) if first else None,
            finish_reason=finish,
        )

    def _finish(self, stopped: bool) -> FinishReason | None:
        if stopped:
            return "stop"
        return "length" if self.generated >= self.sampling.max_tokens else None

    def _release_held(self, text: str, finish: FinishReason) -> tuple[str, FinishReason]:
        """Nothing more will come: show what was held back, unless it completes a stop string after all."""
        tail, stopped = self._stops.push(self._detokenizer.flush())
        if stopped:
            return text + tail, "stop"
        return text + tail + self._stops.finish(), finish
