"""Where a document's headings are: plain text, Markdown and HTML as runs of text under a path of headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

Format: TypeAlias = Literal["text", "markdown", "html"]

_LINE_END: Final = re.compile(r"\r\n?|\n")
_SPACE: Final = re.compile(r"\s+")
_LEVELS: Final = {f"h{level}": level for level in range(1, 7)}
_UNSHOWN: Final = frozenset(
    {"script", "style", "template", "noscript", "head", "svg", "math", "iframe", "object", "nav"}
)
"""Elements of HTML that are not read: they are no text, or lead elsewhere."""
MAX_NESTING: Final = 1000
"""Of HTML's elements."""
LINES_BETWEEN: Final = 256
"""Of Markdown, between two turns of others."""
MAX_RUN: Final = 2048
"""Lines of one paragraph, list or quotation of Markdown; what goes beyond is read as another one. Code has no bound."""
_TAG: Final = re.compile("<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_SELF_ENDING: Final = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"),
        *("dd", "dt", "li", "option", "p", "tbody", "td", "tfoot", "th", "thead", "tr"),
    )
)
_BLOCKS: Final = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div"),
        *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "li", "main", "ol", "p"),
        *("pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul"),
    )
)


@dataclass(frozen=True, slots=True)
class Section:
    """A run of text."""

    text: str
    offset: int
    """Where it begins, in characters: of the document, or of the text that was read out of HTML."""
    headings: tuple[str, ...] = ()
    """Those it stands under, the outermost first."""


def sections_of(text: str, kind: Format) -> Iterator[Section | None]:
    """The document in order; headings themselves are in no section. None now and then: others may have their
    turn. Raises ValueError for HTML that is nested too deeply: its parser takes time as the square of it.
    """
    if kind == "markdown":
        return _of_markdown(text)
    if kind == "html":
        return _of_html(text)
    return iter([Section(text, 0)])


class _Headings:
    """The path of headings as a document is read."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._open)

    def enter(self, level: int, title: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        if title:
            self._open.append((level, title))


def _of_markdown(text: str) -> Iterator[Section | None]:
    """Block after block of the document itself, as the parser's own loop does it, which gives nobody a turn."""
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock, code, fence, html_block

    parser = MarkdownIt("commonmark")
    starts = [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]
    state = StateBlock(_LINE_END.sub("\n", text).replace("\0", "\ufffd"), parser, {}, [])
    rules, lines = parser.block.ruler.getRules(""), state.lineMax
    headings = _Headings()
    begin = turn = 0
    while (line := state.skipEmptyLines(state.line)) < lines:
        state.line, state.tokens = line, []
        near = state.lineMax = min(lines, line + MAX_RUN)
        any(rule(state, line, lines if rule in (code, fence, html_block) else near, False) for rule in rules)
        state.lineMax = lines
        if state.tokens and state.tokens[0].type == "heading_open":
            yield Section(text[begin : starts[line]], begin, headings.path)
            headings.enter(_LEVELS[state.tokens[0].tag], _SPACE.sub(" ", state.tokens[1].content).strip())
            begin = starts[min(state.line, len(starts) - 1)]
        if state.line - turn >= LINES_BETWEEN:
            yield None
            turn = state.line
    yield Section(text[begin:], begin, headings.path)


def _of_html(text: str) -> Iterator[Section]:
    from selectolax.lexbor import LexborHTMLParser

    _require_shallow(text)
    reading = _Reading()
    root = LexborHTMLParser(text).body
    if root is not None:
        _walk(root, reading)
    return iter(reading.end())


def _require_shallow(text: str) -> None:
    """Counts elements that are open, as far as that can be told without parsing: never fewer than a parser has, but for
    those that end by themselves."""
    opened: Counter[str] = Counter()
    depth = 0
    for slash, name in _TAG.findall(text):
        tag = name.lower()
        if tag in _SELF_ENDING:
            continue
        if not slash:
            opened[tag] += 1
            depth += 1
        elif opened[tag]:
            opened[tag] -= 1
            depth -= 1
        if depth > MAX_NESTING:
            raise ValueError(f"is nested too deeply: at most {MAX_NESTING} elements within each other")


def _walk(root: LexborNode, reading: _Reading) -> None:
    """In the order of the document, without recursion: elements may be nested as deeply as the sender likes."""
    node = root
    while True:
        child = reading.enter(node)
        if child is not None:
            node = child
            continue
        reading.leave(node)
        while node.mem_id != root.mem_id and node.next is None and node.parent is not None:
            node = node.parent
            reading.leave(node)
        if node.mem_id == root.mem_id or node.next is None:
            return
        node = node.next


class _Reading:
    """HTML read so far."""

    def __init__(self) -> None:
        self._sections: list[Section] = []
        self._headings = _Headings()
        self._parts: list[str] = []
        self._length = 0
        self._begin = 0
        self._title: list[str] | None = None
        self._preformatted = 0

    def enter(self, node: LexborNode) -> LexborNode | None:
        """The node's first child, if it is to be read."""
        tag = node.tag or ""
        if tag == "-text":
            self._say(node.text_content or "")
        if tag in _LEVELS:
            self._close()
            self._title = []
        elif tag in _BLOCKS:
            self._break("\n\n")
        elif tag == "br":
            self._break("\n")
        elif tag in ("td", "th"):
            self._break(" ")
        self._preformatted += tag == "pre"
        return None if tag in _UNSHOWN else node.child

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _LEVELS and self._title is not None:
            self._headings.enter(_LEVELS[tag], _SPACE.sub(" ", "".join(self._title)).strip())
            self._title = None
        elif tag in _BLOCKS:
            self._break("\n\n")
        self._preformatted -= tag == "pre"

    def end(self) -> list[Section]:
        self._close()
        return self._sections

    def _say(self, text: str) -> None:
        if self._title is not None:
            self._title.append(text)
            return
        told = text if self._preformatted else _SPACE.sub(" ", text)
        if not self._parts or self._parts[-1].endswith((" ", "\n")):
            told = told if self._preformatted else told.lstrip(" ")
        self._add(told)

    def _break(self, border: str) -> None:
        if self._title is not None:
            self._title.append(" ")
        elif self._parts and not self._parts[-1].endswith(border):
            self._add(border)

    def _add(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._length += len(text)

    def _close(self) -> None:
        """What was read since the last heading is a section."""
        if self._parts:
            self._sections.append(Section("".join(self._parts), self._begin, self._headings.path))
        self._parts, self._begin = [], self._length
