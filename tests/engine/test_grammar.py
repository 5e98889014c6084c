"""Answers that follow a grammar: every token allowed, whatever the sampling, beside others, late masks and all."""

from __future__ import annotations

import asyncio
import json
import math
import re
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.decoding.grammar import Grammars
from server.engine.decoding.sampling import Sampler
from server.engine.protocol import GrammarError, GrammarTooComplex, SamplingParams
from server.service.forms import Form
from server.service.grammars import MAX_TRIED, blamed
from server.service.lark import closed, json_rule, lark_of
from tests.engine.drawing import drawn
from tests.engine.harness import World, answer, answers, settled, until

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
JSON = f"start: {json_rule(PERSON)}"
MANY = {f"p{number}": {"type": "string", "pattern": f"^[a-z]{{{number}}}$"} for number in range(700)}
TOO_COMPLEX = f"start: {json_rule({'type': 'object', 'properties': MANY})}"
"""Compiles, but too much could come next."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.create(tmp_path_factory.mktemp("grammar"))


@pytest.fixture(scope="module")
def grammars(world: World) -> Any:
    grammars = Grammars(world.prompt.tokenizer, world.checkpoint.config.vocab_size, (2,))
    yield grammars
    grammars.close()


def spelled(grammars: Grammars, world: World, source: str, seed: int) -> str | None:
    return drawn(grammars, world.prompt.tokenizer, source, seed)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_drawn_is_what_the_schema_allows(grammars: Grammars, world: World, seed: int) -> None:
    text = spelled(grammars, world, JSON, seed)
    if text is not None:
        jsonschema.validate(json.loads(text), PERSON)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_invented_that_a_schema_does_not_name(grammars: Grammars, world: World, seed: int) -> None:
    """As JSON Schema has it anything else might be there as well; no client means that."""
    flag = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    schema = {"type": "object", "properties": {"one": flag, "more": {"items": flag, "maxItems": 2, "type": "array"}}}
    text = spelled(grammars, world, f"start: {json_rule(schema)}", seed)
    assert text is not None
    told = json.loads(text)
    assert told.keys() <= {"one", "more"}
    assert all(one.keys() == {"on"} for one in [*told.get("more", ()), *([told["one"]] if "one" in told else ())])


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "required": [["a"]]},
        {"properties": {"a": {}}, "oneOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"items": {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"$ref": "#/$defs/x", "properties": {"a": {}}, "$defs": {"x": {"properties": {"b": {}}}}},
        {"enum": [{"properties": {}}], "default": {"properties": {}}},
        {"type": "object"},
    ],
    ids=str,
)
def test_what_a_schema_leaves_open_by_intention_stays_open(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), choices=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=5))
def test_choices(grammars: Grammars, world: World, seed: int, choices: list[str]) -> None:
    assert spelled(grammars, world, lark_of(Form("choice", choices, "")), seed) in choices


@pytest.mark.parametrize("expression", ["[a-z]{3}/[0-9]+\\.", "(yes|no)\n?", 'a"b\\\\[/]'])
def test_expressions(grammars: Grammars, world: World, expression: str) -> None:
    for seed in range(5):
        text = spelled(grammars, world, lark_of(Form("regex", expression, "")), seed)
        assert text is None or re.fullmatch(expression, text)


@pytest.mark.parametrize(
    "grammar", ['start: "x" n\nn: /[0-9]/ | n n', 'root ::= "x" n\nn ::= [0-9]+'], ids=["lark", "gbnf"]
)
def test_grammars_in_both_spellings(grammars: Grammars, world: World, grammar: str) -> None:
    text = spelled(grammars, world, lark_of(Form("grammar", grammar, "")), 1)
    assert text is None or re.fullmatch("x[0-9]+", text)


def test_compiled_once(grammars: Grammars) -> None:
    assert grammars.compile(JSON) is grammars.compile(JSON)


@pytest.mark.parametrize(
    "source", ["start: /(/", "start: x", f"start: {json_rule({'uniqueItems': True})}", "start: %json {]", "nothing", ""]
)
def test_what_cannot_be_compiled_says_why(grammars: Grammars, source: str) -> None:
    with pytest.raises(GrammarError, match=r"\w"):
        grammars.compile(source)


def chained(link: str, count: int) -> str:
    """Rules of which each needs the next one."""
    links = [link.format(place, place + 1) for place in range(count)]
    return "\n".join([f"start: {link[0]}0", *links, f'{link[0]}{count}: "z"'])


@pytest.mark.parametrize("link", ["r{}: r{}", 'r{}: "a" r{} | "b"', "r{}: r{}?", "T{}: ~T{}", 'T{}: "a" T{} | "b"'])
def test_however_deep_a_grammar_is_the_process_goes_on(grammars: Grammars, link: str) -> None:
    """On a stack of the usual size this one ended it."""
    with suppress(GrammarError):
        constraint = grammars.constraint(grammars.compile(chained(link, 12_000)))
        with suppress(GrammarTooComplex):
            assert constraint.mask.result().any()


def test_however_long_a_chain_of_references_is_the_process_goes_on(grammars: Grammars) -> None:
    defined = {f"d{place}": {"$ref": f"#/$defs/d{place + 1}"} for place in range(7000)} | {"d7000": {"type": "string"}}
    assert grammars.compile(f"start: {json_rule({'$defs': defined, '$ref': '#/$defs/d0'})}")


def test_a_bound_that_the_compiler_trips_over_is_told_in_words(grammars: Grammars) -> None:
    with pytest.raises(GrammarError, match="more rules or terminals than"):
        grammars.compile("start: " + '"a"? ' * 40_000)


@settings(max_examples=50)
@given(
    kind=st.sampled_from(["regex", "grammar"]),
    text=st.text(min_size=1, max_size=40) | st.text('(){}|[]*+?:=\\/"a\n', min_size=1),
)
def test_whatever_is_sent_is_compiled_or_refused(grammars: Grammars, kind: Any, text: str) -> None:
    with suppress(ValueError):
        grammars.compile(lark_of(Form(kind, text, "")))


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (
            {"properties": {"a": {"items": {"properties": {"b": {"uniqueItems": True}}}}}},
            ".properties.a.items.properties.b",
        ),
        ({"anyOf": [{"type": "string"}, {"not": {}}]}, ".anyOf[1]"),
        ({"$defs": {"N": {"contains": {}}}, "properties": {"x": {"$ref": "#/$defs/N"}}}, ".properties.x"),
        ({"prefixItems": [{"type": "strang"}]}, ".prefixItems[0]"),
        ({"minimum": 3, "maximum": 2, "type": "integer"}, ""),
    ],
    ids=str,
)
def test_the_part_that_is_wrong_is_named(grammars: Grammars, schema: dict[str, Any], path: str) -> None:
    def complaint(part: Any) -> str | None:
        try:
            grammars.compile(f"start: {json_rule(part)}")
        except GrammarError as error:
            return str(error)
        return None

    whole = complaint(schema)
    assert whole is not None
    found, told = blamed(schema, complaint, whole)
    assert found == path
    assert told


def test_the_search_for_it_is_bounded() -> None:
    tried = 0

    def complaint(part: Any) -> str | None:
        nonlocal tried
        tried += 1
        return None

    schema = {"properties": {str(number): {} for number in range(10_000)}}
    assert blamed(schema, complaint, "all of it") == ("", "all of it")
    assert tried == MAX_TRIED


@given(st.data())
def test_a_sampler_picks_only_what_is_allowed(data: st.DataObject) -> None:
    """Whatever it would have picked, bias and penalties included; without a mask as ever."""
    row = torch.tensor(data.draw(st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6).filter(any)))
    params = SamplingParams(
        temperature=data.draw(st.sampled_from([0.0, 1.0])),
        top_k=data.draw(st.integers(0, 3)),
        top_p=data.draw(st.sampled_from([1.0, 0.5])),
        seed=data.draw(st.integers(0, 99)),
        logit_bias={0: 100.0, 1: -100.0},
    )
    assert allowed[Sampler(params, ()).sample(row, allowed).token_id]
    everything = np.ones(6, dtype=np.bool_)
    assert Sampler(params, ()).sample(row, everything) == Sampler(params, ()).sample(row)


async def test_answers_follow_it_beside_others(world: World) -> None:
    """Greedy and drawn, with facts and without; who has no grammar notices nothing."""
    async with world.engine() as engine:
        grammar = engine.compile(JSON)
        free = [world.request("One two"), world.request("Three", "Dogs ride for nothing.")]
        alone = await answers(engine, free)
        kept = [
            world.request("Who?", *facts, max_tokens=300, temperature=temperature, seed=7, grammar=grammar)
            for facts in ((), ("Dogs ride for nothing.",))
            for temperature in (0.0, 1.0)
        ]
        together = await answers(engine, [*free, *kept])
        assert [one.tokens for one in together[:2]] == [one.tokens for one in alone]
        for one in together[2:]:
            assert one.finish_reason == "stop"
            jsonschema.validate(json.loads(one.text), PERSON)


async def test_seeds_repeat_under_preemption(world: World) -> None:
    async with world.engine() as roomy:
        grammar = roomy.compile(JSON)
        requests = [
            world.request("Who? " * 9, max_tokens=120, temperature=1.0, seed=seed, grammar=grammar) for seed in range(4)
        ]
        calm = await answers(roomy, requests)
    async with world.engine(pages=22) as tight:
        grammar = tight.compile(JSON)
        requests = [
            world.request("Who? " * 9, max_tokens=120, temperature=1.0, seed=seed, grammar=grammar) for seed in range(4)
        ]
        assert [one.tokens for one in await answers(tight, requests)] == [one.tokens for one in calm]
        assert tight.stats().preemptions > 0


async def test_a_late_mask_holds_up_nobody_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that waits for it gets the same answer as ever; the others have long ended."""
    async with world.engine() as engine:
        wanted = world.request("Who?", max_tokens=300, grammar=engine.compile(JSON))
        in_time = await answer(engine, wanted)
        masks, gate = engine._grammars._masks, Future[None]()
        masks.submit(gate.result)  # the only thread that makes masks waits for us
        late = asyncio.create_task(answer(engine, wanted))
        free = await answers(engine, [world.request(f"Number {number}") for number in range(3)])
        assert [len(one.tokens) for one in free] == [12] * 3
        assert not late.done()
        gate.set_result(None)
        assert (await late).tokens == in_time.tokens


async def test_one_that_leaves_while_its_mask_is_late(world: World) -> None:
    async with world.engine() as engine:
        gate = Future[None]()
        engine._grammars._masks.submit(gate.result)
        steps = engine.stats().steps
        leaving = asyncio.create_task(answer(engine, world.request("Who?", grammar=engine.compile(JSON))))
        await until(lambda: engine.stats().steps > steps, "the step that computes its prompt")
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.set_result(None)
        await settled(engine)
        assert len((await answer(engine, world.request("Who?"))).tokens) == 12


async def test_one_that_cannot_be_followed_ends_with_an_error(world: World) -> None:
    async with world.engine() as engine:
        lost = world.request("Who?", max_tokens=700, temperature=1.0, seed=1, grammar=engine.compile(TOO_COMPLEX))
        free = asyncio.create_task(answer(engine, world.request("One", max_tokens=40)))
        with pytest.raises(GrammarTooComplex):
            await answer(engine, lost)
        assert len((await free).tokens) == 40
        await settled(engine)


@given(
    row=st.lists(st.floats(-20, 20), min_size=6, max_size=6),
    allowed=st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
    bias=st.floats(-5, 5),
)
def test_log_probabilities_are_of_what_a_grammar_allows(row: list[float], allowed: list[bool], bias: float) -> None:
    """Of that the model's own, as without a grammar: before biases, penalties and temperature."""
    params = SamplingParams(temperature=0.5, seed=1, logprobs=6, logit_bias={0: bias})
    logits = torch.tensor(row)
    logprob = Sampler(params, ()).sample(logits, np.array(allowed)).logprob
    assert logprob is not None
    told = dict(logprob.top)
    exact = torch.log_softmax(logits[torch.tensor(allowed)].double(), 0).tolist()
    assert [told[token] for token in range(6) if allowed[token]] == pytest.approx(exact, abs=1e-5)
    assert all(told[token] == -math.inf for token in range(6) if not allowed[token])
    assert logprob.logprob == told[logprob.token_id]
    assert sum(allowed) > 1 or logprob.logprob == 0.0, "it had to come"
