"""Which words of an answer were taken from which fact."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from server.service.citations import MAX_SENTENCES, CitedFacts
from tests.server.support import QUESTION, Service, error, events

ZORVEX = "The chief executive of Zorvex is Mara Lindqvist."
BRUMAL = "The chief executive of Brumal is Jon Vell, who once worked for Mara."
TRAM = "The last tram to the harbour leaves at 23:40, the first at 5:10."
FACTS = [ZORVEX, BRUMAL, TRAM]


def cited(reply: str, question: str = QUESTION, attention: list[float] | None = None) -> list[tuple[str, str]]:
    found = CitedFacts(question, FACTS).citations(reply, attention)
    return [(reply[one.start : one.end], FACTS[one.fact]) for one in found]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("It is Mara Lindqvist.", [("Mara Lindqvist", ZORVEX)]),
        ("The chief executive of Zorvex is (Mara Lindqvist).", [("Mara Lindqvist", ZORVEX)]),
        ("MARA LINDQVIST", [("MARA LINDQVIST", ZORVEX)]),
        ("Jon Vell.\nMara Lindqvist!", [("Jon Vell", BRUMAL), ("Mara Lindqvist", ZORVEX)]),
        ("It is Mara. The last tram leaves at 23:40.", [("Mara", ZORVEX), ("last tram leaves at 23:40", TRAM)]),
        ("It is Mara.", [("Mara", ZORVEX)]),  # of two that have the word, the one that is asked for
        ("I do not know.", []),
        ("The chief executive of Zorvex.", []),  # nothing but the question
        ("Mara sold umbrellas, hats, gloves and scarves.", []),  # the most of it is from nowhere
        ("", []),
    ],
)  # fmt: skip
def test_the_words_that_were_taken(reply: str, expected: list[tuple[str, str]]) -> None:
    assert cited(reply) == expected


def test_between_facts_alike_attention_decides() -> None:
    facts = ["A ticket costs 4 crowns by day.", "A ticket costs 4 crowns by night."]
    question = "What does a ticket cost?"
    for attention in ([0.1, 0.3], [0.3, 0.1]):
        (one,) = CitedFacts(question, facts).citations("4 crowns", attention)
        assert one.fact == attention.index(0.3)


@given(st.text(), st.lists(st.text(), max_size=4), st.text())
def test_every_citation_is_a_stretch_of_the_reply(reply: str, facts: list[str], question: str) -> None:
    last = 0
    for one in CitedFacts(question, facts).citations(reply):
        assert last <= one.start < one.end <= len(reply)
        assert 0 <= one.fact < len(facts)
        assert not reply[one.start].isspace()
        last = one.end


@given(st.sampled_from(FACTS))
def test_a_fact_that_is_repeated_is_cited(fact: str) -> None:
    assert [source for _, source in cited(fact, "What is true?")] == [fact]


def test_a_hostile_reply_costs_no_more_than_what_is_read() -> None:
    found = CitedFacts(QUESTION, [ZORVEX] * 64).citations("Mara Lindqvist. " * 100_000)
    assert len(found) == MAX_SENTENCES


FORCED = {"guided_choice": ["The chief executive is Mara Lindqvist."], "max_tokens": 60, "ignore_eos": False}
ANNOTATION = {
    "type": "url_citation",
    "url_citation": {"start_index": 23, "end_index": 37, "title": "ceo", "url": "kalmagrove:default/ceo"},
}


async def test_a_message_is_annotated(informed: Service) -> None:
    answer = (await informed.chat(**FORCED)).json()
    message = answer["choices"][0]["message"]
    assert message["annotations"] == [ANNOTATION]
    assert message["content"][23:37] == "Mara Lindqvist"
    (parsed,) = ChatCompletion.model_validate(answer).choices[0].message.annotations or ()
    assert parsed.url_citation.url == "kalmagrove:default/ceo"


async def test_a_stream_tells_them_once_behind_the_text(informed: Service) -> None:
    deltas: list[dict[str, Any]] = [
        choice["delta"] | {"index": choice["index"]}
        for one in events(await informed.chat(**FORCED, n=2, stream=True))
        for choice in one["choices"]
    ]
    for index in (0, 1):
        own = [delta for delta in deltas if delta["index"] == index]
        assert [delta["annotations"] for delta in own if "annotations" in delta] == [[ANNOTATION]]
        assert "annotations" in own[-2]
        assert own[-1] == {"index": index}


async def test_they_can_be_left_out(informed: Service) -> None:
    for knowledge in ({"citations": False}, {"enabled": False}, {"top_k": 0}):
        answer = (await informed.chat(**FORCED, knowledge=knowledge)).json()
        assert answer["choices"][0]["message"]["annotations"] == []


async def test_a_plain_completion_has_none(informed: Service) -> None:
    body = {"model": "tiny", "prompt": "Zorvex", "max_tokens": 1, "knowledge": {"citations": True}}
    refused = await informed.http.post("/v1/completions", json=body)
    assert (refused.status_code, error(refused)["param"]) == (400, "knowledge.citations")
