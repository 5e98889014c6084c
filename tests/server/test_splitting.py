"""Where documents are split."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kan.checkpoint.directory import Checkpoint
from kan.prompt import PromptBuilder
from kb.documents import Piece
from kb.facts import Limits
from server.service.errors import DeadlinePassed
from server.service.sections import MAX_RUN, Format, sections_of
from server.service.splitting import BLOCK, Splitter


def pieces_of(splitter: Splitter, text: str, kind: Format, deadline: float = math.inf) -> list[Piece]:
    return [piece for piece in splitter.split(text, kind, deadline) if piece is not None]


MARKDOWN_LINES = (
    *(
        "# a",
        "a",
        "- a",
        "  - b",
        "> # q",
        "===",
        "---",
        "```",
        "~~~",
        "    x",
        "",
        "1. z",
        "[r]: x",
        "<div>",
        "</div>",
    ),
    *("\t# t", " # s", "###### f", "- # in", "***", "-", "a  ", "\0", "#"),
)
WORDS = st.text("ab .!?\n#>*-`[]|ä日é\r\t<", max_size=60)


@pytest.fixture(scope="module")
def splitter(tiny: Checkpoint) -> Splitter:
    return Splitter(PromptBuilder.from_checkpoint(tiny), 96, Limits())


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, max_size=12).map("\n\n".join), st.sampled_from(["text", "markdown", "html"]))
def test_every_fact_is_short_enough_and_stands_in_the_text(splitter: Splitter, text: str, kind: Format) -> None:
    end = 0
    for piece in pieces_of(splitter, text, kind):
        assert splitter.fits(piece.text)
        if kind == "html":  # the offset is in what was read out of it
            continue
        body = text[piece.offset :]
        assert any(body.startswith(piece.text[cut:]) for cut in range(len(piece.text)))
        assert piece.offset >= end
        end = piece.offset + 1


def test_no_word_of_a_plain_text_is_lost(splitter: Splitter) -> None:
    text = "\n\n".join(f"Paragraph {n} is here. It has two sentences." for n in range(1000))
    assert len(text) > 2 * BLOCK
    pieces = pieces_of(splitter, text, "text")
    assert " ".join(piece.text for piece in pieces).split() == text.split()


def test_an_edit_changes_only_the_facts_around_it(splitter: Splitter) -> None:
    paragraphs = [f"Paragraph {n} is about the harbour and its {n} boats. They leave at {n}." for n in range(300)]
    before = [piece.text for piece in pieces_of(splitter, "\n\n".join(paragraphs), "text")]
    paragraphs[100] = "Something else altogether is said here now, in other words and more of them than before."
    after = [piece.text for piece in pieces_of(splitter, "\n\n".join(paragraphs), "text")]
    assert len(set(after) - set(before)) <= 3


def test_a_split_ends_at_its_deadline(splitter: Splitter) -> None:
    with pytest.raises(DeadlinePassed):
        pieces_of(splitter, "Text.", "text", -math.inf)


HTML = """<html><head><title>No</title></head><body><nav>No</nav><p>Intro &amp; <b>bold</b>.</p>tail
<h1>Refunds <i>now</i></h1><div>One<br>Two</div><ul><li>a</li><li>b</li></ul><script>no()</script>
<h3>Deep</h3><table><tr><td>x</td><td>y</td></tr></table><pre>k  e
p</pre><h2>Next</h2><p>Last</p></body></html>"""


def test_html() -> None:
    found = [(section.headings, section.text.split()) for section in sections_of(HTML, "html")]
    assert found == [
        ((), ["Intro", "&", "bold.", "tail"]),
        (("Refunds now",), ["One", "Two", "a", "b"]),
        (("Refunds now", "Deep"), ["x", "y", "k", "e", "p"]),
        (("Refunds now", "Next"), ["Last"]),
    ]
    assert "k  e\np" in [section.text for section in sections_of(HTML, "html")][2]


@pytest.mark.parametrize(
    "text",
    ["", "<", "<div>" * 900 + "deep", "<p>a" * 20_000, "<h1>" * 900 + "x", "<table><tr>x", "<body/>", "&#0;"],
)
def test_hostile_html_ends(text: str) -> None:
    assert all(section.text for section in sections_of(text, "html"))


@pytest.mark.parametrize("text", ["<div>" * 1001, "<b></x>" * 1001, "<div><table></div>" * 1001, "<p><i>" * 1001])
def test_html_that_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nested"):
        sections_of(text, "html")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\n# T\r\nb", [((), "a\r\n"), (("T",), "b")]),
        ("T\n===\nb\n\nS\n---\nc", [((), ""), (("T",), "b\n\n"), (("T", "S"), "c")]),
        ("> # quoted\n\nb", [((), "> # quoted\n\nb")]),
        ("### c\nx\n# a\ny", [((), ""), (("c",), "x\n"), (("a",), "y")]),
    ],
)
def test_markdown(text: str, expected: Any) -> None:
    assert [(section.headings, section.text) for section in sections_of(text, "markdown")] == expected


@pytest.mark.parametrize("line", ["# a", "a", "- a", "a\n", "***", "> a", "[a]: b", "```"])
def test_long_markdown_gives_others_their_turn(line: str) -> None:
    lines = 3 * MAX_RUN
    given = list(sections_of(f"{line}\n" * lines, "markdown"))
    assert given.count(None) >= lines // MAX_RUN
    told = [section for section in given if section is not None]
    assert all(section.text.strip() for section in told) or line == "# a"


@given(st.lists(st.sampled_from(MARKDOWN_LINES), max_size=14), st.sampled_from(["\n", "\r\n", "\r"]))
def test_markdown_has_its_headings_where_the_parser_has_them(lines: list[str], end: str) -> None:
    text = end.join(lines)
    tokens = MarkdownIt("commonmark").parse(text)
    expected = [
        " ".join(title.content.split())
        for token, title in pairwise(tokens)
        if token.type == "heading_open" and not token.level
    ]
    _, *under = [section.headings for section in sections_of(text, "markdown") if section is not None]
    assert len(under) == len(expected)
    assert all(path[-1] == title for path, title in zip(under, expected, strict=True) if title)


def test_code_is_no_heading_however_long() -> None:
    code = "# a comment\n" * (2 * MAX_RUN)
    told = [section for section in sections_of(f"# T\n```\n{code}```\n# S\n", "markdown") if section is not None]
    assert [section.headings for section in told] == [(), ("T",), ("S",)]


def test_markdown_of_nothing_but_headings_ends_at_its_deadline(splitter: Splitter) -> None:
    with pytest.raises(DeadlinePassed):
        pieces_of(splitter, "# a\n" * 2, "markdown", -math.inf)
