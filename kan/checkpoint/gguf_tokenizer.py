"""The tokenizer that a GGUF file describes in its metadata, as a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from kan.checkpoint.imported import ModelImportError


class _TokenType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe"})
"""Pre-tokenizers whose models take a word that is a token as that token, whatever the merges say."""


def tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """Byte-level BPE only, with a pre-tokenizer known exactly: a guess would be subtly wrong for ever.

    Raises ModelImportError naming what is not supported.
    """
    kind, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != "gpt2":
        raise ModelImportError(f"tokenizer.ggml.model {kind!r} is not supported, only 'gpt2' (byte-level BPE)")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelImportError("tokenizer.ggml.tokens holds a token twice")
    merges = [_pair(merge) for merge in metadata["tokenizer.ggml.merges"]]
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in _WHOLE_WORDS_FIRST)
    except Exception as error:  # the library raises bare Exception
        raise ModelImportError(f"tokenizer.ggml.merges do not fit the tokens: {error}") from error
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(_added(tokens, metadata["tokenizer.ggml.token_type"]))
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos = tokens[metadata["tokenizer.ggml.bos_token_id"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    text: str = tokenizer.to_str()
    return text


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in ("gpt-2", "gpt2"):
        return words
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    if pre == "llama-bpe":
        split = pre_tokenizers.Split(tokenizers.Regex(_LLAMA3_PATTERN), "isolated", invert=False)
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    raise ModelImportError(f"tokenizer.ggml.pre {pre!r} is not supported (gpt-2, llama-bpe and smollm are)")


def _pair(merge: str) -> tuple[str, str]:
    left, separator, right = merge.partition(" ")
    if not (left and separator and right):
        raise ModelImportError(f"tokenizer.ggml.merges holds {merge!r}, which is no pair")
    return left, right


def _added(tokens: list[str], kinds: list[int]) -> list[tokenizers.AddedToken]:
    return [
        tokenizers.AddedToken(token, special=kind == _TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_TokenType.CONTROL, _TokenType.USER_DEFINED)
    ]
