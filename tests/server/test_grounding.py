"""`knowledge.grounded` and `knowledge.require_grounded`: an answer that no fact supports is not given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.evidence import ATTENDED, REPLY, UNATTENDED
from kan.knowledge.grounding import Calibration, Grounding, GroundingError
from kan.knowledge.phi import Phi, PhiError, gap_phi, save_phi
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import TokenChunk, TokenLogprob
from server.loading import load_learned
from server.service.judging import Judging
from server.service.options import KnowledgeOptions
from server.service.prompts import Text
from server.service.require_grounded import REFUSAL, require_grounded
from tests.server.support import Service, build_services, chat_body, error, events, running

SUPPORTED = "Who is the chief executive of Zorvex?"
FOREIGN = "How do I boil an egg?"
LIKELY = 5.5
"""Minus the log probability of the least likely token in the tiny model's likelier answers."""


def calibration(names: tuple[str, ...], bias: float, **weights: float) -> Calibration:
    """Signals that are not named count for nothing."""
    return Calibration({**dict.fromkeys(names, 0.0), **weights}, bias)


def grounding(mounted: tuple[float, str, float], follows: tuple[float, str, float]) -> Grounding:
    """Of each: a bias, a signal, its weight."""
    (bias, signal, weight), (of_reply, reply_signal, reply_weight) = mounted, follows
    return Grounding(
        calibration(ATTENDED, bias, **{signal: weight}),
        calibration(UNATTENDED, bias, **{signal: weight}),
        calibration(REPLY, of_reply, **{reply_signal: reply_weight}),
    )


CERTAIN = (60.0, "agreement", 0.0)
CALIBRATION = grounding((-20.0, "best_relevance", 40.0), CERTAIN)
"""The fact is mounted: by relevance, half at 0.5. The reply follows it: for certain."""


@pytest.fixture
async def judged(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> AsyncGenerator[Service, None]:
    services = replace(build_services(tmp_path, tiny, encoder), grounding=CALIBRATION)
    async with running(services, min_score=-1.0, min_best_score=-1.0) as service:
        await service.put(
            ceo="The chief executive of Zorvex is Mara Lindqvist.", fare="A day pass costs twelve crowns."
        )
        yield service


def strict(**fields: Any) -> dict[str, Any]:
    return {"require_grounded": True, **fields}


async def test_every_answer_says_how_well_it_is_grounded(judged: Service) -> None:
    supported = (await judged.chat(SUPPORTED)).json()["knowledge"]
    foreign = (await judged.chat(FOREIGN)).json()["knowledge"]
    assert foreign["grounded"] < 0.1 < 0.9 < supported["grounded"]
    for told in (supported, foreign):
        assert told["grounded"] == told["fact_mounted"]
        assert told["follows_fact"] == 1
    off = (await judged.chat(SUPPORTED, knowledge={"enabled": False})).json()
    assert "knowledge" not in off
    nothing = (await judged.chat(SUPPORTED, knowledge={"top_k": 0})).json()["knowledge"]
    assert (nothing["grounded"], nothing["fact_mounted"], nothing["follows_fact"]) == (0, 0, 0)


@pytest.mark.parametrize("weight", [40.0, -40.0])
async def test_what_is_said_counts(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, weight: float) -> None:
    """The tiny model says nothing that stands in a fact."""
    by_words = grounding(CERTAIN, (-weight / 2, "agreement", weight))
    services = replace(build_services(tmp_path, tiny, encoder), grounding=by_words)
    async with running(services, min_score=-1.0, min_best_score=-1.0) as service:
        await service.put(ceo="The chief executive of Zorvex is Mara Lindqvist.")
        body = (await service.chat(SUPPORTED, knowledge=strict())).json()
    refused = body["choices"][0]["message"]["content"] == REFUSAL
    assert refused is (weight > 0)
    assert body["knowledge"]["fact_mounted"] == 1
    assert (body["knowledge"]["follows_fact"] < 0.1) is refused
    assert body["knowledge"]["grounded"] == body["knowledge"]["follows_fact"]


async def test_answers_are_refused_one_by_one(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    """What is judged is each answer, what is told is their mean."""
    by_luck = grounding(CERTAIN, (5000 * LIKELY, "least_logprob", 5000.0))
    services = replace(build_services(tmp_path, tiny, encoder), grounding=by_luck)
    async with running(services, min_score=-1.0, min_best_score=-1.0) as service:
        await service.put(ceo="The chief executive of Zorvex is Mara Lindqvist.")
        fields = {"n": 6, "seed": 1, "temperature": 1, "logprobs": True}
        plain = (await service.chat(SUPPORTED, **fields)).json()
        held = (await service.chat(SUPPORTED, **fields, knowledge=strict())).json()
    least = [min(token["logprob"] for token in one["logprobs"]["content"]) for one in plain["choices"]]
    refused = [one["message"]["content"] == REFUSAL for one in held["choices"]]
    assert refused == [one < -LIKELY for one in least], least
    assert True in refused
    assert False in refused
    assert held["knowledge"]["grounded"] == pytest.approx(refused.count(False) / 6, abs=0.05)


async def test_log_probabilities_are_told_to_nobody_who_did_not_ask(judged: Service) -> None:
    silent = (await judged.chat(SUPPORTED)).json()["choices"][0]
    asked = (await judged.chat(SUPPORTED, logprobs=True)).json()["choices"][0]
    assert silent["logprobs"] is None
    assert len(asked["logprobs"]["content"]) == 4
    assert silent["message"] == asked["message"]
    parts = events(await judged.chat(SUPPORTED, stream=True))
    assert all(choice["logprobs"] is None for part in parts for choice in part["choices"])
    silent_parts = [part for part in parts if part["choices"] and part["choices"][0]["delta"].get("content") == ""]
    assert len(silent_parts) <= 1, "events without text, but for the role's"


async def test_an_ungrounded_answer_is_refused(judged: Service) -> None:
    plain = (await judged.chat(SUPPORTED)).json()["choices"][0]
    assert (await judged.chat(SUPPORTED, knowledge=strict())).json()["choices"][0] == plain
    body = (await judged.chat(FOREIGN, knowledge=strict())).json()
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (REFUSAL, "stop")
    assert body["usage"]["completion_tokens"] == 0
    assert [fact["attention"] > 0 for fact in body["knowledge"]["facts"]] == [True, True]
    await judged.engine.audit()


@pytest.mark.parametrize("question", [SUPPORTED, FOREIGN])
async def test_a_stream_says_the_same(judged: Service, question: str) -> None:
    whole = (await judged.chat(question, knowledge=strict(), n=2, seed=1)).json()
    stream = events(await judged.chat(question, knowledge=strict(), n=2, seed=1, stream=True))
    texts = ["", ""]
    for part in stream:
        for choice in part["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    last = [part["knowledge"] for part in stream if "knowledge" in part]
    judged_by = ("grounded", "fact_mounted", "follows_fact")
    assert [[one[name] for name in judged_by] for one in last] == [[whole["knowledge"][name] for name in judged_by]]


async def test_with_nothing_mounted_the_model_is_not_asked(judged: Service) -> None:
    before = judged.engine.stats().steps
    body = (await judged.chat(FOREIGN, knowledge=strict(min_score=0.9))).json()
    assert body["choices"][0]["message"]["content"] == REFUSAL
    assert body["knowledge"]["grounded"] == 0
    assert judged.engine.stats().steps == before


async def test_prompts_of_one_request_are_judged_apart(judged: Service) -> None:
    body = {**chat_body(), "prompt": [SUPPORTED, FOREIGN], "knowledge": strict()}
    del body["messages"]
    choices = (await judged.http.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["text"] == REFUSAL for choice in choices] == [False, True]


async def test_without_calibration_it_is_refused_by_name(service: Service) -> None:
    response = await service.chat(knowledge=strict())
    assert response.status_code == 400
    assert error(response)["param"] == "knowledge.require_grounded"


async def test_an_engine_that_tells_no_attention_is_judged_by_the_rest(judged: Service) -> None:
    """As vLLM does."""
    prompts = await judged.context.prompts.make("me", [Text(SUPPORTED)], KnowledgeOptions())
    told_apart = Grounding(calibration(ATTENDED, -60.0), calibration(UNATTENDED, 60.0), calibration(REPLY, 60.0))

    async def chunks(attention: tuple[float, ...] | None) -> AsyncGenerator[tuple[int, TokenChunk], None]:
        logprobs = (TokenLogprob(1, -0.5, ()),)
        yield 0, TokenChunk("Mara", (1,), logprobs=logprobs, finish_reason="stop", attention=attention)

    shares = (0.1,) * len(prompts[0].facts)
    for attention, expected in ((None, 1.0), (shares, 0.0)):
        judging = Judging(told_apart, prompts, 1)
        assert judging.of_prompt(0) is None
        (heard,) = [chunk async for _, chunk in judging.heard(chunks(attention), told=False)]
        assert heard.logprobs is None
        assert judging.of_choice(0).grounded == pytest.approx(expected)
        assert judging.of_prompt(0) == judging.of_choice(0)


async def test_leaving_early_closes_the_streams_behind() -> None:
    closed = []

    async def chunks() -> AsyncGenerator[tuple[int, TokenChunk], None]:
        try:
            yield 0, TokenChunk("a", (1,), finish_reason="stop", attention=(0.5,))
            yield 1, TokenChunk("b", (1,), finish_reason="stop", attention=(0.5,))
        finally:
            closed.append(True)

    held = require_grounded(chunks(), lambda choice: 1.0, 0.5)
    assert (await anext(held))[1].text == "a"
    await held.aclose()
    assert closed == [True]


def test_phi_by_its_setting(tmp_path: Path, tiny: Checkpoint) -> None:
    config = tiny.config
    built_in = gap_phi(config.num_layers, config.num_heads, config.head_dim)
    assert load_learned("none", tiny, "encoder") == (None, None)
    for name in ("gap", "auto"):  # nothing is shipped for the tiny model
        phi, found = load_learned(name, tiny, "encoder")
        assert phi is not None
        assert phi.digest == built_in.digest
        assert found is None

    path = tmp_path / "own.phi.safetensors"
    own = Phi(built_in.coefficients + 1, tiny.fingerprint, "encoder")
    save_phi(own, path)
    assert load_learned(str(path), tiny, "encoder")[1] is None
    beside = tmp_path / "own.grounding.json"
    replace(CALIBRATION, model_fingerprint=tiny.fingerprint, phi_digest=own.digest).save(beside)
    phi, found = load_learned(str(path), tiny, "encoder")
    assert phi is not None
    assert phi.digest == own.digest
    assert found is not None
    assert found.follows_fact == CALIBRATION.follows_fact

    with pytest.raises(PhiError, match=r"own\.phi\.safetensors.*another encoder"):
        load_learned(str(path), tiny, "another encoder")
    replace(CALIBRATION, model_fingerprint=tiny.fingerprint, phi_digest="other").save(beside)
    with pytest.raises(GroundingError, match=r"own\.grounding\.json"):
        load_learned(str(path), tiny, "encoder")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PhiError, match=r"own\.phi\.safetensors"):
        load_learned(str(path), tiny, "encoder")
