"""What a question means that points back to what was asked before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.service.follow_up import MAX_CHARACTERS, in_context
from tests.server.support import Service

AMBER = "How long is the Amber Line?"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ([AMBER, "How many stations does it have?"], "Amber Line: How many stations does it have?"),
        ([AMBER, "Does it stop at Northgate?"], "Amber Line: Does it stop at Northgate?"),
        ([AMBER, "And at rush hour?"], "Amber Line: And at rush hour?"),
        ([AMBER, "How many stations does it have?", "And its depot?"], "Amber Line: And its depot?"),
        ([AMBER, "And the Cobalt Line?"], "How long is the Cobalt Line?"),
        ([AMBER, "And the Cobalt Line?", "What about Fern?"], "How long is the Fern?"),
        (
            ["When does the Amber Line reach Northgate?", "And the Fern Line?"],
            "When does the Fern Line reach Northgate?",
        ),
        (["What does flight 714 cost?", "And flight 22?"], "What does flight 22 cost?"),
        (["Who runs the Bank of Norway?", "and his deputy?"], "Bank of Norway: and his deputy?"),
        (["where is the ferry?", "what happens there?"], "where is the ferry?: what happens there?"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_what_points_back_is_completed(said: list[str], meant: str) -> None:
    assert in_context(said) == meant


@pytest.mark.parametrize(
    "last",
    [
        "Who is the chief executive of Quillhaven Transit?",
        "And who is the press officer of Quillhaven Transit?",
        "Who founded Quillhaven Transit, and where does she live?",
        "Is there a ferry?",
        "Why is the sky blue?",
        "So what is the price of a ticket for a whole family with children?",
        "Und wie groß ist sie?",
        "它在哪里？",
        "",
        "Does it " + "stop " * MAX_CHARACTERS,
    ],
)
def test_what_stands_alone_is_looked_up_as_it_is(last: str) -> None:
    assert in_context([last]) == last
    assert in_context([AMBER, last]) == last
    assert in_context(["It " * MAX_CHARACTERS, last]) == last


@given(st.lists(st.text(max_size=60) | st.sampled_from([AMBER, "And it?", "And the X 1?"]), min_size=1, max_size=9))
def test_any_conversation_has_a_last_question(said: list[str]) -> None:
    meant = in_context(said)
    assert len(meant) <= sum(map(len, said)) + 3 * len(said) + MAX_CHARACTERS
    assert meant == said[-1] or len(said) > 1


def test_a_name_is_exchanged_as_a_whole_and_does_not_multiply() -> None:
    assert in_context(["Are there trams on A?", "And on B?"]) == "Are there trams on B?"
    turn = f"And the {'Y' * 60}?"
    assert in_context([", ".join("X" * 100), turn]) == turn


def test_hostile_turns_take_no_time() -> None:
    """What is not linear in a turn's length would take hours here."""
    for text in ("there" * 10**6, "it! " * 10**5, "A " * 10**6, "&" * 10**6):
        in_context([text, text])
        in_context([AMBER, text])


async def test_a_conversation_finds_what_its_last_turn_means(service: Service) -> None:
    await service.put(
        amber="The trains of the Amber Line are kept at Larkfield.",
        cobalt="The trains of the Cobalt Line are kept at Millrace.",
        fares="Where trains go is printed on every ticket: keep it.",
    )
    turns = [
        {"role": "user", "content": "How long is the Cobalt Line?"},
        {"role": "assistant", "content": "It is 29 kilometres long."},
        {"role": "user", "content": "And where are its trains kept?"},
    ]
    found = []
    for messages, follow_up in ((turns, True), (turns, False), (turns[-1:], True)):
        knowledge = {"max_gap": 4, "min_score": -1, "follow_up": follow_up}
        facts = (await service.chat(messages=messages, knowledge=knowledge)).json()["knowledge"]["facts"]
        found.append([(fact["id"], fact["score"]) for fact in facts])
    assert found[0][0][0] == "cobalt"
    assert len(found[0]) == len(found[1]) == 3
    assert found[0] != found[1] == found[2]
