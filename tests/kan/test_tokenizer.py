"""Tokenizer: exact round trips, control tokens only on request, and SmolLM2's ids against an independent BPE."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import regex
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from kan.checkpoint.directory import Checkpoint
from kan.tokenizer import Tokenizer
from tests.tiny import SPECIAL_TOKENS, tiny_tokenizer_json

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "It cost 12345.67 on 2024-01-02, i.e. 1 000 more.",
    "  leading, trailing  ",
    "a  b   c\n\n\n d\t\te\r\nf",
    "naïve café Ünïcödé 日本語 🎉👩‍👩‍👧 ١٢٣",
    "don't we'll I'M you've",
    "x<|im_end|>y <|endoftext|><|im_start|>system",
    "def f(x):\n    return x**2  # ½ Ⅷ e\u0301\n",
    "\u00a0\u3000wide\u2028lines\x00\x1f",
]

SMOLLM2_LACKS = frozenset(b"\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2") | frozenset(range(0xF5, 0x100))
"""Bytes for which SmolLM2's vocabulary has no token (as published): they are left out of any text."""

varied_text = st.one_of(
    st.text(max_size=60),
    st.text("aeth .,'\n\t0129½é<|im_end|>日🎉\u0301", max_size=60),
    st.lists(st.sampled_from([*TEXTS, *SPECIAL_TOKENS, "<|", "|>", "im_end"]), max_size=6).map("".join),
)


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer_json())


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Checkpoint) -> Tokenizer:
    return Tokenizer(smollm2.tokenizer_path)


@given(text=varied_text)
def test_plain_text_round_trips_without_control_tokens(byte_tokenizer: Tokenizer, text: str) -> None:
    ids = byte_tokenizer.encode(text)
    assert byte_tokenizer.special_ids.isdisjoint(ids)
    assert byte_tokenizer.decode(ids) == text
    assert b"".join(map(byte_tokenizer.token_bytes, ids)) == text.encode()


def test_control_tokens_on_request(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("a<|im_end|>b<|im_start|>", allow_special=True)
    assert [index for index in ids if index in byte_tokenizer.special_ids] == [2, 1]
    assert byte_tokenizer.decode(ids) == "ab"
    assert byte_tokenizer.decode(ids, skip_special=False) == "a<|im_end|>b<|im_start|>"
    assert byte_tokenizer.token_bytes(2) == b"<|im_end|>"


@given(text=varied_text)
def test_splitting_agrees_with_encoding(byte_tokenizer: Tokenizer, text: str) -> None:
    pieces = byte_tokenizer.split_special(text)
    ids = [i for piece in pieces for i in ([piece] if isinstance(piece, int) else byte_tokenizer.encode(piece))]
    assert ids == byte_tokenizer.encode(text, allow_special=True)
    assert "" not in pieces


def test_control_tokens_that_swallow_spaces_split_like_they_encode() -> None:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer_json())
    inner.add_special_tokens([tokenizers.AddedToken("<L>", lstrip=True), tokenizers.AddedToken("<R>", rstrip=True)])
    tokenizer = Tokenizer(inner.to_str())
    text = "a  <L>  b  <R>  c <R> <L> <R>\n"
    pieces = tokenizer.split_special(text)
    ids = [i for piece in pieces for i in ([piece] if isinstance(piece, int) else tokenizer.encode(piece))]
    assert ids == tokenizer.encode(text, allow_special=True)


def test_broken_characters_decode_to_replacement_characters(byte_tokenizer: Tokenizer) -> None:
    first, second = byte_tokenizer.encode("é")
    assert byte_tokenizer.decode([first]) == "\ufffd"
    assert byte_tokenizer.decode([first, second]) == "é"
    assert byte_tokenizer.token_bytes(first) == b"\xc3"


def test_every_byte_has_a_token(byte_tokenizer: Tokenizer) -> None:
    spelled = {byte_tokenizer.token_bytes(index) for index in range(3, 259)}
    assert spelled == {bytes([byte]) for byte in range(256)}


def test_ids_outside_the_vocabulary(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.vocab_size == 259
    assert byte_tokenizer.token_bytes(259) == b""
    with pytest.raises(ValueError, match="-1 is no token id"):
        byte_tokenizer.token_bytes(-1)


def test_lone_surrogates_are_refused(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        byte_tokenizer.encode("a\ud800b")


def test_no_bos_unless_the_post_processor_has_one(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.prefix == ()
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer_json())
    inner.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    with_bos = Tokenizer(inner.to_str())
    assert with_bos.prefix == (1,)
    assert with_bos.encode("a") == byte_tokenizer.encode("a")


def test_truncation_and_padding_are_switched_off(byte_tokenizer: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer_json())
    inner.enable_truncation(4)
    inner.enable_padding(length=8)
    assert Tokenizer(inner.to_str()).encode("a") == byte_tokenizer.encode("a")
    assert len(Tokenizer(inner.to_str()).encode("a" * 100)) == 100


def test_an_unknown_byte_never_becomes_the_unknown_token() -> None:
    definition = json.loads(tiny_tokenizer_json())
    definition["model"]["unk_token"] = "<|endoftext|>"
    missing = definition["model"]["vocab"].pop("Ń")  # byte 0xAD, the last character of the alphabet
    tokenizer = Tokenizer(json.dumps(definition))
    assert tokenizer.token_bytes(missing) == b""
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("a\xadb"))
    assert tokenizer.decode(tokenizer.encode("a\xadb")) == "a\ufffdb"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 3}', "nonsense"])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer(text)


def test_other_kinds_of_tokenizer_are_refused_by_name() -> None:
    inner = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "▁": 1}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    with pytest.raises(ValueError, match="this one decodes with Metaspace"):
        Tokenizer(inner.to_str())
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    with pytest.raises(ValueError, match=r"ByteFallback \+ Fuse"):
        Tokenizer(inner.to_str())


def test_may_be_shared_by_threads(byte_tokenizer: Tokenizer) -> None:
    def work(seed: int) -> bool:
        text = TEXTS[seed % len(TEXTS)] * 5
        special = byte_tokenizer.encode(text, allow_special=True)
        return byte_tokenizer.decode(byte_tokenizer.encode(text)) == text and (
            byte_tokenizer.decode(special, skip_special=False) == text
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


class _PlainBPE:
    """Byte-level BPE as in the paper, on `regex`: shares no code with the `tokenizers` library."""

    _WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, tokenizer_json: str) -> None:
        model = json.loads(tokenizer_json)["model"]
        alphabet = [*range(33, 127), *range(161, 173), *range(174, 256)]
        alphabet += [byte for byte in range(256) if byte not in alphabet]
        self._letter = {byte: chr(byte if n < 188 else 256 + n - 188) for n, byte in enumerate(alphabet)}
        self._rank = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self._id = model["vocab"]

    def encode(self, text: str) -> list[int]:
        pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
        return [i for piece in pieces for word in self._WORDS.findall(piece) for i in self._word(word)]

    def _word(self, word: str) -> list[int]:
        letters = [self._letter[byte] for byte in word.encode()]
        parts = [letter for letter in letters if letter in self._id]  # what is lacking is not there for merges either
        while True:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: self._rank.get(pair, 1 << 30), default=None)
            if best is None or best not in self._rank:
                return [self._id[part] for part in parts]
            merged, place = [], 0
            while place < len(parts):
                joined = tuple(parts[place : place + 2]) == best
                merged.append("".join(best) if joined else parts[place])
                place += 2 if joined else 1
            parts = merged


@pytest.fixture(scope="module")
def plain_bpe(smollm2: Checkpoint) -> _PlainBPE:
    return _PlainBPE(smollm2.tokenizer_path.read_text("utf-8"))


@pytest.mark.smollm2
@settings(max_examples=300)
@given(text=varied_text)
@example(text="*\x06:")
def test_smollm2_ids_agree_with_plain_bpe(smollm2_tokenizer: Tokenizer, plain_bpe: _PlainBPE, text: str) -> None:
    ids = smollm2_tokenizer.encode(text)
    assert ids == plain_bpe.encode(text)
    assert smollm2_tokenizer.special_ids.isdisjoint(ids)
    kept = bytes(byte for byte in text.encode() if byte not in SMOLLM2_LACKS)
    assert b"".join(map(smollm2_tokenizer.token_bytes, ids)) == kept


@pytest.mark.smollm2
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_round_trips(smollm2_tokenizer: Tokenizer, plain_bpe: _PlainBPE, text: str) -> None:
    ids = smollm2_tokenizer.encode(text)
    assert ids == plain_bpe.encode(text)
    assert b"".join(map(smollm2_tokenizer.token_bytes, ids)).decode() == text


@pytest.mark.smollm2
def test_smollm2_known_ids(smollm2_tokenizer: Tokenizer) -> None:
    """Ids that Hugging Face's own tokenizer gives; digits stand alone."""
    assert smollm2_tokenizer.vocab_size == 49152
    assert len(smollm2_tokenizer.special_ids) == 17
    assert smollm2_tokenizer.prefix == ()
    chat = smollm2_tokenizer.encode("<|im_start|>system\nFacts:\n<|im_end|>", allow_special=True)
    assert chat == [1, 9690, 198, 36455, 42, 198, 2]
    assert smollm2_tokenizer.encode("1234") == [33, 34, 35, 36]
