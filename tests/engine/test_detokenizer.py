"""Pieces of text against the whole: the same characters, wherever the borders fall."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kan.tokenizer import Tokenizer
from server.engine.decoding.detokenizer import IncrementalDetokenizer, TokenBytes
from server.engine.decoding.stop_strings import StopStrings
from tests.tiny import tiny_tokenizer_json

SPECIAL = 1_000


class Bytes:
    """A tokenizer whose tokens are the byte strings it is given, and one special token."""

    special_ids = frozenset([SPECIAL])

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = tokens

    def token_bytes(self, token_id: int, /) -> bytes:
        return b"<|special|>" if token_id == SPECIAL else self._tokens[token_id]


def pieces(tokenizer: TokenBytes, ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*map(detokenizer.feed, ids), detokenizer.flush()]


any_bytes = st.binary(max_size=6)
cut_text = st.text(min_size=1, max_size=3).map(lambda text: text.encode()[1:])
hostile = st.sampled_from(
    [b"\xf0", b"\x9f", b"\x98\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x82", b"\xff", b"\xf4\x90", b"a"]
)


@given(st.lists(st.one_of(any_bytes, cut_text, hostile), max_size=12))
@example([b"\xf0\x9f", b"A"])
@example([b"\xe2\x82", b"\xe2\x82\xac"])
@example([b"\xf0\x9f\x98"])
def test_pieces_are_the_whole(tokens: list[bytes]) -> None:
    found = pieces(Bytes(tokens), list(range(len(tokens))))
    assert "".join(found) == b"".join(tokens).decode("utf-8", "replace")


@given(st.text(max_size=20))
def test_text_byte_by_byte_is_never_split_nor_late(text: str) -> None:
    encoded = text.encode()
    found = pieces(Bytes([bytes([byte]) for byte in encoded]), list(range(len(encoded))))
    assert [piece for piece in found if piece] == list(text)
    assert found[-1] == ""


def test_special_tokens_are_no_text_even_inside_a_character() -> None:
    euro = "€".encode()
    ids = [SPECIAL, 0, SPECIAL, 1, SPECIAL]
    assert pieces(Bytes([euro[:1], euro[1:]]), ids) == ["", "", "", "€", "", ""]


def test_the_real_tokenizer() -> None:
    tokenizer = Tokenizer(tiny_tokenizer_json())
    text = "naïve café 🚋 <|im_end|>\n"
    ids = [1, *tokenizer.encode(text), 2]
    found = pieces(tokenizer, ids)
    assert "".join(found) == tokenizer.decode(ids) == text
    assert "🚋" in found


def test_flush_begins_anew() -> None:
    detokenizer = IncrementalDetokenizer(Bytes([b"\xe2", b"ok"]))
    assert detokenizer.feed(0) == ""
    assert detokenizer.flush() == "�"
    assert detokenizer.flush() == ""
    assert detokenizer.feed(1) == "ok"


def cut_by_find(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The whole text at once: cut before the stop string that ends first, the longest of those."""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return (text[: min(found)[1]], True) if found else (text, False)


@st.composite
def chunked(draw: st.DrawFn) -> list[str]:
    text = draw(st.text(alphabet="ab\n", max_size=24))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


stops = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=4).map(tuple)


@given(chunked(), stops)
@example(["a", "a", "b"], ("ab",))
@example(["ab", "c"], ("abc", "b"))
@example(["abc"], ("abc", "b"))
@example(["aab", "ab"], ("abab", "bb"))
def test_stop_strings_cut_as_on_the_whole_text(chunks: list[str], stop: tuple[str, ...]) -> None:
    cutter, shown, stopped = StopStrings(stop), "", False
    expected = cut_by_find("".join(chunks), stop)
    for chunk in chunks:
        safe, stopped = cutter.push(chunk)
        shown += safe
        assert expected[0].startswith(shown)
        if stopped:
            break
    assert (shown + cutter.finish(), stopped) == expected


@given(chunked(), stops)
def test_stop_strings_hold_back_no_more_than_could_begin_one(chunks: list[str], stop: tuple[str, ...]) -> None:
    cutter, shown, pushed = StopStrings(stop), "", ""
    for chunk in chunks:
        pushed += chunk
        safe, stopped = cutter.push(chunk)
        shown += safe
        if stopped:
            break
        held = pushed[len(shown) :]
        assert pushed == shown + held
        assert held == "" or any(s.startswith(held) and s != held for s in stop)


def test_nothing_comes_after_a_stop() -> None:
    cutter = StopStrings(("END",))
    assert cutter.push("one E") == ("one ", False)
    assert cutter.push("ND two") == ("", True)
    assert cutter.push("three") == ("", True)
    assert cutter.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop"):
        StopStrings(("a", ""))
