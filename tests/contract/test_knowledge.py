"""What an edit means, whatever engine serves."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.contract.conftest import ENGINE, Contract, chat_body, text

EDITS = 100 if ENGINE == "vllm" else 10
STREAMS = 4


def test_an_answer_comes_from_a_mounted_fact(contract: Contract) -> None:
    answer = contract.chat()
    assert "Mara Ellison" in text(answer)
    knowledge = answer["knowledge"]
    best = knowledge["facts"][0]
    assert best["id"] == "staff-ceo"
    assert best["page"] == contract.http.get("/admin/kb/facts/staff-ceo").json()["page"]
    assert 0.5 < knowledge["grounded"] <= 1
    assert knowledge["grounded"] == pytest.approx(knowledge["fact_mounted"] * knowledge["follows_fact"], abs=1e-3)
    if contract.engine == "vllm":
        assert all(fact["attention"] is None for fact in knowledge["facts"])
    else:
        assert 0 < best["attention"] < 1
    assert answer["usage"]["prompt_tokens"] < 40, "mounted facts are not prompt tokens"


def test_an_edit_is_answered_from_and_undone(contract: Contract) -> None:
    before = contract.http.get("/admin/kb/version").json()["version"]
    version = contract.put(**{"staff-ceo": "The chief executive of Quillhaven Transit is Jonas Wetherby."})
    answer = contract.chat(knowledge={"min_version": version})
    assert "Jonas Wetherby" in text(answer)
    assert answer["knowledge"]["version"] == answer["knowledge"]["facts"][0]["version"] == version
    assert contract.http.post("/admin/kb/rollback", json={"version": before}).status_code == 200
    assert "Mara Ellison" in text(contract.chat())


def test_a_deleted_fact_is_never_served_again(contract: Contract) -> None:
    """Not even out of a prefix cache that was warm with it."""
    secret = "The password of the harbour vault of Quillhaven Transit is Zanzibarwhistle."
    question = "What is the password of the harbour vault of Quillhaven Transit?"
    contract.put(vault=secret)
    for _ in range(2):
        assert "Zanzibar" in text(contract.chat(question))
    assert contract.http.delete("/admin/kb/facts/vault").status_code == 200
    answer = contract.chat(question)
    assert "Zanzibar" not in text(answer)
    assert "vault" not in [fact["id"] for fact in answer["knowledge"]["facts"]]


def test_no_knowledge_is_the_bare_model(contract: Contract) -> None:
    bare = contract.chat("What is the capital of France?", knowledge={"enabled": False})
    assert "Paris" in text(bare)
    assert bare.get("knowledge") is None
    nothing = contract.chat("What is the capital of France?", knowledge={"min_score": 1.0})
    assert text(nothing) == text(bare)
    assert nothing["knowledge"]["facts"] == []


@pytest.mark.parametrize("strict", [True, False])
def test_what_no_fact_supports_is_refused_if_asked(contract: Contract, strict: bool) -> None:
    answer = contract.chat("What is the boiling point of mercury?", knowledge={"require_grounded": strict})
    assert ("has no fact" in text(answer)) is strict


def test_the_order_of_facts_does_not_matter(contract: Contract) -> None:
    """Facts that two questions mount in different orders are the same set; so is a set asked for twice."""
    first, again = (contract.chat(max_tokens=8, logprobs=True, knowledge={"max_gap": 4}) for _ in range(2))
    assert text(first) == text(again)
    for one, other in zip(
        first["choices"][0]["logprobs"]["content"], again["choices"][0]["logprobs"]["content"], strict=True
    ):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


@pytest.mark.timeout(600)
def test_no_answer_is_older_than_its_edit(contract: Contract) -> None:
    """Every edit is followed at once by a question on another connection, while streams are running."""
    stop = threading.Event()
    finished = [0] * STREAMS

    def keep_streaming(number: int) -> None:
        body = chat_body("Tell me about the trams.", max_tokens=24, stream=True, ignore_eos=True)
        with httpx.Client(base_url=contract.url, timeout=120) as http:
            while not stop.is_set():
                with http.stream("POST", "/v1/chat/completions", json=body) as response:
                    lines = [line for line in response.iter_lines() if line]
                assert lines[-1] == "data: [DONE]", lines[-1]
                finished[number] += 1

    threads = [threading.Thread(target=keep_streaming, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    try:
        stale = [number for number in range(EDITS) if not _fresh(contract, number)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert stale == []
    assert min(finished) > 0, "the streams starved"


def _fresh(contract: Contract, number: int) -> bool:
    version = contract.put(probe=f"The code word of the probe in the depot is number {number}.")
    with httpx.Client(base_url=contract.url, timeout=60) as other:
        body: dict[str, Any] = chat_body("What is the code word of the probe in the depot?", max_tokens=2)
        knowledge = other.post("/v1/chat/completions", json=body).json()["knowledge"]
        page = other.get("/admin/kb/facts/probe").json()["page"]
    (mounted,) = [fact for fact in knowledge["facts"] if fact["id"] == "probe"]
    return knowledge["version"] >= version and mounted["version"] == version and mounted["page"] == page
