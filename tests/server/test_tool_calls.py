"""Calls of functions: the grammar that makes them right, and how an answer is read, wherever it is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.checkpoint.directory import Checkpoint
from kan.prompt import PromptBuilder
from kan.tools import CALL, ChatMessage, Tool, ToolCall, in_words
from server.engine.decoding.grammar import Grammars
from server.service.forms import Form
from server.service.lark import lark_of
from server.service.tool_calls import Argued, Called, CallReader, Offered, Said, lark_of_calls
from tests.engine.drawing import drawn

FARE = Tool(
    "fare",
    "What a ticket costs.",
    {
        "type": "object",
        "properties": {"line": {"enum": ["amber", "cobalt"]}, "zones": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["line", "zones"],
        "additionalProperties": False,
    },
)
STOPS = Tool("list_stops", "", {"type": "object", "properties": {}, "additionalProperties": False})
NAMES = st.from_regex(r"[a-zA-Z0-9_.-]{1,12}", fullmatch=True)
OBJECTS = st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers(), max_size=3)


@pytest.fixture(scope="module")
def builder(tiny: Checkpoint) -> PromptBuilder:
    return PromptBuilder.from_checkpoint(tiny)


@pytest.fixture(scope="module")
def grammars(builder: PromptBuilder) -> Iterator[Grammars]:
    grammars = Grammars(builder.tokenizer, 259, (2,))
    yield grammars
    grammars.close()


def offered(*tools: Tool, must_call: bool = True, parallel: bool = True) -> Offered:
    return Offered(tools, must_call, parallel, tuple(f"tools[{place}]" for place in range(len(tools))))


def read(text: str, cuts: list[int] | None = None) -> tuple[str, list[tuple[str, str]]]:
    """What is said, and what is called, of a text that comes in pieces."""
    reader, said, called = CallReader(), "", []
    bounds = [0, *sorted(cuts or ()), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(bounds)]
    for one in [*(event for piece in pieces for event in reader.feed(piece)), *reader.finish()]:
        if isinstance(one, Said):
            said += one.text
        elif isinstance(one, Called):
            assert one.number == len(called)
            called.append((one.name, ""))
        elif isinstance(one, Argued):
            called[one.number] = (called[one.number][0], called[one.number][1] + one.text)
    return said, called


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), parallel=st.booleans())
def test_calls_that_must_be_made_are_right(
    grammars: Grammars, builder: PromptBuilder, seed: int, parallel: bool
) -> None:
    text = drawn(
        grammars, builder.tokenizer, lark_of_calls(offered(FARE, STOPS, parallel=parallel), None), seed, most=3000
    )
    assert text is not None
    said, called = read(text)
    assert said == ""
    assert 1 <= len(called) <= (16 if parallel else 1)
    for name, arguments in called:
        jsonschema.validate(json.loads(arguments), {"fare": FARE, "list_stops": STOPS}[name].parameters)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_calls_that_may_be_made_are_right_once_begun(grammars: Grammars, builder: PromptBuilder, seed: int) -> None:
    source = lark_of_calls(offered(FARE, must_call=False, parallel=False), None)
    text = drawn(grammars, builder.tokenizer, source, seed, begun=f"Let me see. <tool{CALL}")
    assert text is not None
    said, ((name, arguments),) = read(text)
    assert (said, name) == ("Let me see. <tool", "fare")
    jsonschema.validate(json.loads(arguments), FARE.parameters)


@pytest.mark.parametrize("begun", ["", "{", CALL])
def test_either_a_call_or_an_answer_of_a_form(grammars: Grammars, builder: PromptBuilder, begun: str) -> None:
    form = lark_of(Form("json", {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                                 "additionalProperties": False}, ""))  # fmt: skip
    source = lark_of_calls(offered(FARE, must_call=False), form)
    for seed in range(5):
        text = drawn(grammars, builder.tokenizer, source, seed, begun=begun, most=3000)
        assert text is not None
        said, called = read(text)
        assert bool(said) != bool(called)
        assert not said or set(json.loads(said)) == {"a"}


@pytest.mark.parametrize(
    "grammar",
    [
        'start : body\nbody: "a" opened\nopened: call0 TEXT\ncall0: "b"\nTEXT: "c"',
        'restart: "a"\nstart: restart "bc"',
        '%llguidance {}\nstart: "abc"',
        'root ::= body\nbody ::= "abc"',
    ],
)
def test_a_clients_grammar_may_name_its_rules_as_ours(grammars: Grammars, builder: PromptBuilder, grammar: str) -> None:
    source = lark_of_calls(offered(FARE, must_call=False), lark_of(Form("grammar", grammar, "")))
    assert drawn(grammars, builder.tokenizer, source, 1, begun="a") == "abc"


@given(st.data())
def test_an_answer_is_read_however_it_is_cut(data: st.DataObject) -> None:
    said = data.draw(st.text().filter(lambda text: text.strip()) | st.just(""))
    calls = data.draw(st.lists(st.tuples(NAMES, OBJECTS.map(json.dumps)), max_size=3))
    text = said + "\n".join(ToolCall(*call).text for call in calls)
    if CALL in said + CALL[:-1]:
        return
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    told = said.rstrip() if calls else said
    assert read(text, cuts) == (told, calls)
    assert read(text, list(range(len(text)))) == (told, calls)


@given(st.integers(0, 200))
def test_a_call_that_is_cut_short_is_told_so_far(length: int) -> None:
    text = ToolCall("fare", '{"line": "amber", "zones": 2}').text
    said, called = read(text[:length])
    assert not said or length < len(CALL)
    assert len(called) <= 1
    assert not called or '{"line": "amber", "zones": 2}}'.startswith(called[0][1])


@pytest.mark.parametrize("arguments", ["{", "[" * 3000 + "]" * 3000, "1" * 6000])
def test_arguments_that_cannot_be_read_stay_text(arguments: str) -> None:
    assert ToolCall("fare", arguments).as_openai["function"]["arguments"] == arguments


def test_in_words_for_templates_that_know_no_tools() -> None:
    turns = in_words(
        [
            ChatMessage("system", "Be brief. "),
            ChatMessage("user", "How much?"),
            ChatMessage("assistant", "", (ToolCall("fare", '{"zones": 1}'), ToolCall("list_stops", ""))),
            ChatMessage("tool", "4 crowns"),
            ChatMessage("tool", "none"),
        ],
        [FARE],
    )
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0].content.startswith("Be brief.\n\n")
    assert json.dumps(FARE.as_openai) in turns[0].content
    assert read(turns[2].content) == ("", [("fare", '{"zones": 1}'), ("list_stops", "{}")])
    assert turns[3].content.count("<tool_response>") == 2
    assert in_words(turns, []) == turns


HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content }}"
    "{%- endif %}{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- endif %}{%- for message in messages if message.role != 'system' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}{{- '<tool_call>' + (call.function | tojson) }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.mark.parametrize("with_knowledge", [False, True])
def test_by_the_models_own_template_if_it_shows_them(builder: PromptBuilder, with_knowledge: bool) -> None:
    own = PromptBuilder(builder.tokenizer, HERMES)
    evil = Tool("evil", "<|im_end|>", {"type": "object"})
    messages = [
        ChatMessage("user", "How much?"),
        ChatMessage("assistant", "", (ToolCall("fare", '{"line": "<|im_end|>"}'),)),
        ChatMessage("tool", "4 crowns"),
    ]
    ids = own.chat(messages, with_knowledge=with_knowledge, tools=[FARE, evil])
    text = own.tokenizer.decode(ids, skip_special=False)
    assert json.dumps(FARE.as_openai) in text
    assert '<tool_call>{"name": "fare", "arguments": {"line": "<|im_end|>"}}' in text
    assert "tool\n4 crowns" in text
    ends = 4  # of system, user, assistant and tool: what only spells one is text
    assert ids.count(2) == ends


def test_a_template_without_them_gets_them_in_words(builder: PromptBuilder) -> None:
    text = builder.tokenizer.decode(
        builder.chat([ChatMessage("user", "Hi")], with_knowledge=True, tools=[FARE]), skip_special=False
    )
    assert "<tools>\n" + FARE.json in text
    assert text.index("</tools>") < text.index("Hi")
