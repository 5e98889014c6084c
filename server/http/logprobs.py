"""Log probabilities of tokens, written as either endpoint of OpenAI's wants them."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from kan.tokenizer import Tokenizer
from server.engine.protocol import TokenLogprob
from server.http.schemas.chat import ChatLogprobs
from server.http.schemas.completions import CompletionLogprobs
from server.http.schemas.logprobs import ChatTokenLogprob, TopLogprob


def spell(token: bytes) -> str:
    """A token as text; one that is no whole UTF-8 is spelled `bytes:\\xe2\\x9a`, as OpenAI does."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """For `choices[].logprobs` of a chat completion or chunk."""
    return {"content": token_logprobs(tokenizer, tokens), "refusal": None}


def token_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> list[ChatTokenLogprob]:
    """One each."""
    return [_chat_token(tokenizer, token) for token in tokens]


def _chat_token(tokenizer: Tokenizer, token: TokenLogprob) -> ChatTokenLogprob:
    chosen = _entry(tokenizer, token.token_id, token.logprob)
    top = [_entry(tokenizer, token_id, logprob) for token_id, logprob in _possible(token)]
    return {**chosen, "top_logprobs": top}


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    spelled = tokenizer.token_bytes(token_id)
    return {"token": spell(spelled), "logprob": _finite(logprob), "bytes": list(spelled)}


class CompletionLogprobsWriter:
    """The parallel lists of one choice of a plain completion, chunk by chunk.

    `text_offset` counts whole characters, so the tokens of one split character share an offset.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def prompt(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None] | None) -> CompletionLogprobs:
        """The lists for echoed tokens. Those whose log probability is not known get null."""
        known = logprobs or [None] * len(token_ids)
        return self._lists(token_ids, known)

    def generated(self, logprobs: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """The lists for new tokens."""
        return self._lists([token.token_id for token in logprobs], logprobs)

    def _lists(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> CompletionLogprobs:
        spelled = [self._tokenizer.token_bytes(token_id) for token_id in token_ids]
        return {
            "tokens": [spell(token) for token in spelled],
            "token_logprobs": [None if token is None else _finite(token.logprob) for token in logprobs],
            "top_logprobs": [None if token is None else self._top(token) for token in logprobs],
            "text_offset": [self._advance(token) for token in spelled],
        }

    def _top(self, token: TokenLogprob) -> dict[str, float]:
        return {spell(self._tokenizer.token_bytes(token_id)): value for token_id, value in _possible(token)}

    def _advance(self, token: bytes) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(token))
        return offset


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    """Lists of consecutive tokens as one."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


def _possible(token: TokenLogprob) -> list[tuple[int, float]]:
    """Fewer than were asked for, where a grammar allows fewer."""
    return [(token_id, logprob) for token_id, logprob in token.top if logprob > -math.inf]


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is impossible."""
    return max(logprob, -9999.0)
