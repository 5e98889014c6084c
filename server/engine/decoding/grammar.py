"""Grammars that answers must follow, compiled within bounds, and the state of one answer under one of them.

A grammar is Lark text in llguidance's dialect, in which `%json {…}` stands for what a JSON schema allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, stack_size
from typing import Protocol

import llguidance
import numpy as np
from numpy.typing import NDArray

from server.engine.decoding.trial import Trial
from server.engine.decoding.trial_process import STACK_BYTES, parser_limits
from server.engine.protocol import Grammar, GrammarError, GrammarTooComplex

KEPT = 64
"""Compiled grammars that are kept for requests to come: agents send the same ones again and again."""


class TokenSpelling(Protocol):
    """What a grammar needs of a tokenizer."""

    @property
    def special_ids(self) -> Container[int]: ...

    def token_bytes(self, index: int) -> bytes: ...

    def encode(self, text: str) -> list[int]: ...


class Grammars:
    """Of one model. `compile` may be called by any thread; what it takes is bounded, whatever the grammar."""

    def __init__(
        self, tokenizer: TokenSpelling, vocab_size: int, end_tokens: Sequence[int], trial: Trial | None = None
    ) -> None:
        """`trial`: of grammars that anybody may have written; closed with this."""
        self._trial = trial
        spelled = llguidance.TokenizerWrapper(_Spelled(tokenizer, vocab_size, end_tokens))
        self._tokenizer = llguidance.LLTokenizer(spelled, n_vocab=vocab_size, eos_token=list(end_tokens))
        self._vocab_size = vocab_size
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = Lock()
        self._compiling = _deep_thread("kalmagrove-compiler")
        self._masks = _deep_thread("kalmagrove-masks")

    def compile(self, source: str) -> Grammar:
        """Blocks, milliseconds mostly. Raises GrammarError."""
        if (known := self.compiled(source)) is not None:
            return known
        if self._trial is not None:
            self._trial.require_bounded(source)
        matcher = self._compiling.submit(self._matcher, source).result()
        if matcher.is_error():
            raise GrammarError(_complaint(matcher.get_error()))
        grammar = Grammar(source, matcher)
        with self._lock:
            self._kept[source] = grammar
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return grammar

    def compiled(self, source: str) -> Grammar | None:
        """What `compile` has made of it, if that is kept. Waits for nothing."""
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
            return self._kept.get(source)

    def constraint(self, grammar: Grammar) -> Constraint:
        """Of a new answer."""
        assert isinstance(grammar.compiled, llguidance.LLMatcher)
        return Constraint(grammar.compiled.deep_copy(), self._vocab_size, self._masks)

    def close(self) -> None:
        """Nothing more is compiled, and no more masks are made. Idempotent."""
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self._masks.shutdown(wait=False, cancel_futures=True)
        if self._trial is not None:
            self._trial.close()

    def _matcher(self, source: str) -> llguidance.LLMatcher:
        lark = llguidance.LLMatcher.grammar_from_lark(source)
        return llguidance.LLMatcher(self._tokenizer, lark, log_level=0, limits=parser_limits())


def _deep_thread(name: str) -> ThreadPoolExecutor:
    """One thread with a stack of STACK_BYTES."""
    usual = stack_size(STACK_BYTES)
    try:
        executor = ThreadPoolExecutor(1, name)
        executor.submit(int).result()  # the thread begins with its first job
    finally:
        stack_size(usual)
    return executor


def _complaint(told: str) -> str:
    """Of the compiler; what it says of a bound that it does not check is of no use to who wrote the grammar."""
    return "it has more rules or terminals than the compiler takes" if told.startswith("panic") else told.strip()


class Constraint:
    """Which tokens may come next. Made on a thread of its own, while the model computes the token before."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, masks: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._masks = masks
        self.mask: Future[NDArray[np.bool_]] = masks.submit(self._make)
        """Bool [vocab]: the next token's. Raises GrammarTooComplex."""

    def accept(self, token_id: int) -> None:
        """The token came; `mask` is of the one after it. Only once `mask` is there."""
        self.mask = self._masks.submit(self._follow, token_id)

    def _follow(self, token_id: int) -> NDArray[np.bool_]:
        self._matcher.consume_token(token_id)
        return self._make()

    def _make(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].view(np.bool_)
        if self._matcher.is_error() or not mask.any():
            raise GrammarTooComplex("the grammar leads where the model's tokens cannot follow, or takes too long to")
        return mask


class _Spelled:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: TokenSpelling, vocab_size: int, end_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_tokens[0]
        self.tokens = [tokenizer.token_bytes(index) for index in range(vocab_size)]
        self.special_token_ids = [index for index in range(vocab_size) if index in tokenizer.special_ids]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)
