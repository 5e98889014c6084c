"""/v1/completions."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.support import MODEL, QUESTION, Service, error, events


async def complete(service: Service, prompt: Any = QUESTION, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **fields}
    return await service.http.post("/v1/completions", json=body)


async def tokens_of(service: Service, text: str) -> list[int]:
    return list((await service.http.post("/tokenize", json={"prompt": text})).json()["tokens"])


async def test_whole_answer(informed: Service) -> None:
    body = (await complete(informed)).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"][0].keys() == {"index", "text", "logprobs", "finish_reason"}
    assert body["usage"]["completion_tokens"] == 4
    assert body["knowledge"]["facts"][0]["id"] == "ceo"


async def test_four_ways_to_give_a_prompt(informed: Service) -> None:
    ids = await tokens_of(informed, QUESTION)
    one, same = (await complete(informed)).json(), (await complete(informed, ids)).json()
    assert one["choices"] == same["choices"]
    assert one["usage"] == same["usage"]
    other = "When does the last tram leave?"
    for prompts in ([QUESTION, other], [ids, await tokens_of(informed, other)]):
        both = (await complete(informed, prompts)).json()
        assert [choice["index"] for choice in both["choices"]] == [0, 1]
        assert both["choices"][0]["text"] == one["choices"][0]["text"]
        assert [c["knowledge"]["facts"][0]["id"] for c in both["choices"]] == ["ceo", "tram"]
        assert "knowledge" not in both
        assert both["usage"]["completion_tokens"] == 8


async def test_stream(informed: Service) -> None:
    whole = (await complete(informed, n=2, seed=1, temperature=1)).json()
    chunks = events(
        await complete(informed, n=2, seed=1, temperature=1, stream=True, stream_options={"include_usage": True})
    )
    texts = ["", ""]
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["choices"] == []
    assert "knowledge" in chunks[-2]
    assert sum(choice["finish_reason"] == "length" for c in chunks[:-1] for choice in c["choices"]) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_legacy_logprobs(service: Service, stream: bool) -> None:
    response = await complete(service, "né", logprobs=2, echo=True, max_tokens=5, stream=stream)
    if stream:
        chunks = [chunk["choices"][0] for chunk in events(response) if chunk["choices"]]
        text = "".join(chunk["text"] for chunk in chunks)
        parts = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
        logprobs = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    else:
        choice = response.json()["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
    assert text.startswith("né")
    assert len(logprobs["tokens"]) == 3 + 5
    assert logprobs["tokens"][:3] == ["n", "bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["token_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in logprobs["top_logprobs"][1:])
    assert logprobs["text_offset"][:4] == [0, 1, 1, 2]
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])


async def test_echo_with_knowledge_scores_only_the_clients_tokens(informed: Service) -> None:
    choice = (await complete(informed, logprobs=0, echo=True)).json()["choices"][0]
    ids = await tokens_of(informed, QUESTION)
    assert choice["text"].startswith(QUESTION)
    assert len(choice["logprobs"]["tokens"]) == len(ids) + 4
    assert "".join(choice["logprobs"]["tokens"][: len(ids)]) == QUESTION
    assert all(value is not None for value in choice["logprobs"]["token_logprobs"])  # the facts come before


async def test_only_the_prompts_own_logprobs(service: Service) -> None:
    scored = (await complete(service, "abc", logprobs=1, echo=True, max_tokens=0)).json()
    assert scored["choices"][0]["text"] == "abc"
    assert len(scored["choices"][0]["logprobs"]["tokens"]) == 3
    assert scored["usage"]["completion_tokens"] == 0
    longer = (await complete(service, "abc", logprobs=1, echo=True, max_tokens=2)).json()
    assert longer["choices"][0]["logprobs"]["token_logprobs"][:3] == scored["choices"][0]["logprobs"]["token_logprobs"]


async def test_refusals(service: Service) -> None:
    for fields, param in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 17}, "n"),
        ({"prompt": [[1]] * 128, "n": 2}, "n"),
        ({"prompt": [259]}, "prompt"),
        ({"prompt": "x" * 2000}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
    ):
        response = await complete(service, **fields)
        assert response.status_code == 400, fields
        assert error(response)["param"] == param


async def test_prompts_do_not_count_as_choices(informed: Service) -> None:
    """They take turns at no more places than one request may have."""
    prompts = [f"{QUESTION} {number}" for number in range(128)]
    body = (await complete(informed, prompts, max_tokens=1, knowledge={"enabled": False})).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(128))
    assert body["usage"]["completion_tokens"] == 128
    generations = informed.context.generations
    assert (generations.waiting, generations.holding) == (0, 0)
    one = (await complete(informed, prompts[100], max_tokens=1, knowledge={"enabled": False})).json()
    assert body["choices"][100]["text"] == one["choices"][0]["text"]
