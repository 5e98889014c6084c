"""Text to tokens and back, for byte-level BPE tokenizers. Control tokens only when asked for by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers


class Tokenizer:
    """A `tokenizer.json` of the `tokenizers` library: a path to it, or its text.

    Immutable after construction, so any number of threads may share it.
    Raises ValueError for text that is no tokenizer, or one that is not byte-level.
    """

    def __init__(self, tokenizer_json: Path | str) -> None:
        text = tokenizer_json.read_text("utf-8") if isinstance(tokenizer_json, Path) else tokenizer_json
        definition = _parse(text)
        self._special = _load(definition)
        # Two instances, because the choice is a property of the instance and not an argument of encode().
        self._plain = _load(definition)
        self._plain.encode_special_tokens = True
        added = self._special.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {token.content: index for index, token in added.items() if token.special}
        """Control tokens: spelling to id."""
        self.special_ids: frozenset[int] = frozenset(self.special_tokens.values())
        self.vocab_size: int = max(self._special.get_vocab(with_added_tokens=True).values()) + 1
        """One more than the largest id. The model may have more rows than that (padding)."""
        self.prefix: tuple[int, ...] = self._leading_tokens()
        """What the model expects before any text that is no chat: its BOS token, or nothing."""
        self._bytes = self._spell_all({index: token.content for index, token in added.items()})
        self.longest_token: int = max(map(len, self._bytes))
        """Bytes of the longest token: no text of more characters than n times that has n tokens or fewer, unless the
        vocabulary lacks its bytes."""
        self.control_pattern: re.Pattern[str] = _control_pattern(self.special_tokens)
        """Matches the spelling of any control token."""
        self._swallow_left = frozenset(token.content for token in added.values() if token.lstrip)
        self._swallow_right = frozenset(token.content for token in added.values() if token.rstrip)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS. Bytes that the vocabulary lacks are left out.

        By default "<|im_end|>" and the like are plain text, whoever wrote them; with `allow_special` they are
        control tokens. Raises ValueError for text that is not Unicode (lone surrogates).
        """
        tokenizer = self._special if allow_special else self._plain
        try:
            # Of a batch, because that lets other threads of the process go on meanwhile.
            (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError("the text holds a lone surrogate, which is no Unicode character") from error
        return list(encoding.ids)

    def split_special(self, text: str) -> list[str | int]:
        """`text` cut at the control tokens it spells: plain pieces (never empty) and control ids."""
        pieces: list[str | int] = []
        end = 0
        for match in self.control_pattern.finditer(text):
            token = match.group()
            before = text[end : match.start()]
            pieces.append(before.rstrip() if token in self._swallow_left else before)
            pieces.append(self.special_tokens[token])
            end = match.end()
            if token in self._swallow_right:
                end += len(text) - end - len(text[end:].lstrip())
        pieces.append(text[end:])
        return [piece for piece in pieces if piece != ""]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD. Raises ValueError for a negative id."""
        skipped = self.special_ids if skip_special else frozenset()
        spelled = b"".join(self.token_bytes(index) for index in ids if index not in skipped)
        return spelled.decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """Exact bytes of one token (often part of a character). Empty for an id the tokenizer lacks."""
        if index < 0:
            raise ValueError(f"{index} is no token id")
        return self._bytes[index] if index < len(self._bytes) else b""

    def _leading_tokens(self) -> tuple[int, ...]:
        bare: list[int] = self._special.encode("a", add_special_tokens=False).ids
        full: list[int] = self._special.encode("a", add_special_tokens=True).ids
        return tuple(full[: full.index(bare[0])]) if bare and bare[0] in full else ()

    def _spell_all(self, added: dict[int, str]) -> list[bytes]:
        alphabet = _byte_of_character()
        table = [b""] * self.vocab_size
        for token, index in self._special.get_vocab(with_added_tokens=False).items():
            # A token outside the alphabet can only be a control token, and those are overwritten below.
            if all(character in alphabet for character in token):
                table[index] = bytes(alphabet[character] for character in token)
        for index, token in added.items():
            table[index] = token.encode("utf-8")
        return table


def _parse(text: str) -> dict[str, Any]:
    try:
        definition = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not a tokenizer.json: {error}") from error
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        raise ValueError("not a tokenizer.json: there is no model in it")
    _require_byte_level(definition)
    # The unknown token is a control token. Bytes that the vocabulary lacks (SmolLM2's lacks 21, some of them control
    # characters, the others of unassigned code points) are left out instead.
    definition["model"]["unk_token"] = None
    return definition


def _load(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _require_byte_level(definition: dict[str, Any]) -> None:
    """Only byte-level tokens can be spelled exactly, and joined without invented spaces."""
    decoder = definition.get("decoder") or {}
    kinds = [part.get("type") for part in decoder.get("decoders", [decoder])]
    if kinds != ["ByteLevel"]:
        named = " + ".join(str(kind) for kind in kinds)
        raise ValueError(f"only byte-level BPE tokenizers are supported; this one decodes with {named}")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 onwards, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _control_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Matches any control token, the longest first; with no control tokens, nothing."""
    ordered = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
