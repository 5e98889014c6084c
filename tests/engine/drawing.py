"""Texts drawn at random from what a grammar allows."""

from __future__ import annotations

import llguidance
import numpy as np

from kan.tokenizer import Tokenizer
from server.engine.decoding.grammar import Grammars

END = 2
"""The token."""


def drawn(
    grammars: Grammars, tokenizer: Tokenizer, source: str, seed: int, *, begun: str = "", most: int = 400
) -> str | None:
    """A text that begins so, and goes on as the masks allow; None: it has not ended after so many tokens."""
    compiled = grammars.compile(source).compiled
    assert isinstance(compiled, llguidance.LLMatcher)
    matcher, random = compiled.deep_copy(), np.random.default_rng(seed)
    forced, ids = tokenizer.encode(begun), list[int]()
    while len(ids) < most:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        token = forced[len(ids)] if len(ids) < len(forced) else int(random.choice(allowed))
        assert token in allowed
        if token == END:
            return tokenizer.decode(ids)
        ids.append(token)
        matcher.consume_token(token)
    return None
