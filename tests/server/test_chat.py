"""/v1/chat/completions: shapes to OpenAI's letter, and knowledge."""

from __future__ import annotations

import pytest

from tests.server.support import QUESTION, Service, chat_body, error, events


async def test_whole_answer(service: Service) -> None:
    body = (await service.chat()).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"].keys() == {"role", "content", "refusal", "annotations"}
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 4
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    retrieval_ms = body["knowledge"]["retrieval_ms"]
    assert body["knowledge"] == {
        "version": 0,
        "facts": [],
        "retrieval_ms": retrieval_ms,
        "grounded": None,
        "fact_mounted": None,
        "follows_fact": None,
    }


async def test_answer_says_what_it_was_drawn_from(informed: Service) -> None:
    knowledge = (await informed.chat()).json()["knowledge"]
    assert knowledge["version"] == 1
    assert knowledge["facts"][0]["id"] == "ceo"
    assert knowledge["facts"][0]["version"] == 1
    assert knowledge["facts"][0]["score"] > 0.5
    shares = [fact["attention"] for fact in knowledge["facts"]]
    assert all(0 < share < 1 for share in shares)
    assert sum(shares) < 1


async def test_facts_about_something_else_are_not_mounted(informed: Service) -> None:
    foreign = "How do I boil an egg?"
    assert (await informed.chat(foreign)).json()["knowledge"]["facts"] == []
    assert (await informed.chat(foreign, knowledge={"min_score": -1})).json()["knowledge"]["facts"] != []


async def test_an_edit_is_seen_by_the_next_request(informed: Service) -> None:
    reply = await informed.put(ceo="The chief executive of Zorvex is Odd Halvorsen.")
    knowledge = (await informed.chat(knowledge={"min_version": reply["version"]})).json()["knowledge"]
    assert knowledge["version"] == reply["version"] == 2
    assert knowledge["facts"][0]["version"] == 2
    await informed.http.delete("/admin/kb/facts/ceo")
    knowledge = (await informed.chat()).json()["knowledge"]
    assert knowledge["version"] == 3
    assert "ceo" not in [fact["id"] for fact in knowledge["facts"]]


@pytest.mark.parametrize(
    "knowledge", [{"enabled": False}, {"top_k": 0}, {"namespace": "elsewhere"}, {"min_score": 1.0}]
)
async def test_without_facts_the_model_is_the_bare_model(service: Service, knowledge: dict[str, object]) -> None:
    fields = {"max_tokens": 8, "logprobs": True, "top_logprobs": 2}
    bare = (await service.chat(**fields)).json()
    await service.put(ceo="The chief executive of Zorvex is Mara Lindqvist.")
    same = (await service.chat(knowledge=knowledge, **fields)).json()
    assert same["choices"] == bare["choices"]
    assert same["usage"] == bare["usage"]
    informed = (await service.chat(**fields)).json()
    assert informed["choices"][0]["logprobs"] != bare["choices"][0]["logprobs"]


async def test_knowledge_is_no_prompt(informed: Service) -> None:
    few = (await informed.chat(knowledge={"top_k": 1})).json()
    many = (await informed.chat(knowledge={"top_k": 3, "min_score": -1, "max_gap": 4})).json()
    assert len(many["knowledge"]["facts"]) == 3
    assert few["usage"] == many["usage"]


async def test_stream_to_the_letter(informed: Service) -> None:
    whole = (await informed.chat()).json()
    chunks = events(await informed.chat(stream=True, stream_options={"include_usage": True}))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *content, last, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in [*content, last])
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert [fact["id"] for fact in last["knowledge"]["facts"]][:1] == ["ceo"]
    assert last["knowledge"]["facts"][0]["attention"] > 0
    assert all("knowledge" not in chunk for chunk in [*content, usage])
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in content)
    assert text == whole["choices"][0]["message"]["content"]


async def test_stream_without_usage_has_no_usage(service: Service) -> None:
    assert all("usage" not in chunk for chunk in events(await service.chat(stream=True)))


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_are_numbered_and_differ(informed: Service, stream: bool) -> None:
    fields = {"n": 3, "seed": 5, "temperature": 1.5, "max_tokens": 8}
    whole = (await informed.chat(**fields)).json()
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert whole["usage"]["completion_tokens"] == 24
    if stream:
        chunks = events(await informed.chat(stream=True, **fields))
        streamed = ["", "", ""]
        for chunk in chunks:
            for choice in chunk["choices"]:
                streamed[choice["index"]] += choice["delta"].get("content", "")
        assert streamed == texts
        assert sum("knowledge" in chunk for chunk in chunks) == 1
        assert "knowledge" in chunks[-1]


async def test_logprobs(service: Service) -> None:
    fields = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6}
    whole = (await service.chat(**fields)).json()["choices"][0]
    content = whole["logprobs"]["content"]
    assert len(content) == 6
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]  # greedy
        text = bytes(token["bytes"])
        assert token["token"] == text.decode("utf-8", "strict") if token["token"][:6] != "bytes:" else True
    spelled = b"".join(bytes(token["bytes"]) for token in content)
    assert whole["message"]["content"] in spelled.decode("utf-8", "replace")
    chunks = events(await service.chat(stream=True, **fields))
    streamed = [
        token
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"]
        for token in choice["logprobs"]["content"]
    ]
    assert streamed == content


async def test_logit_bias_takes_string_ids(service: Service) -> None:
    token = (await service.http.post("/tokenize", json={"prompt": "Z"})).json()["tokens"][0]
    body = (await service.chat(logit_bias={str(token): 100})).json()
    assert body["choices"][0]["message"]["content"] == "ZZZZ"


async def test_stop_is_not_part_of_the_answer(service: Service) -> None:
    token = (await service.http.post("/tokenize", json={"prompt": "Z"})).json()["tokens"][0]
    fields = {"logit_bias": {str(token): 100}, "max_tokens": 9}
    body = (await service.chat(stop="ZZZ", **fields)).json()["choices"][0]
    assert (body["message"]["content"], body["finish_reason"]) == ("", "stop")
    chunks = events(await service.chat(stop=["Q", "ZZZ"], stream=True, **fields))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_content_may_be_text_parts(service: Service) -> None:
    parts = [{"type": "text", "text": QUESTION[:5]}, {"type": "text", "text": QUESTION[5:]}]
    body = chat_body()
    whole = await service.http.post("/v1/chat/completions", json=body)
    body["messages"][0]["content"] = parts
    same = await service.http.post("/v1/chat/completions", json=body)
    assert same.json()["choices"] == whole.json()["choices"]


async def test_harmless_fields_and_nulls_are_accepted(service: Service) -> None:
    response = await service.chat(
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        safety_identifier="x",
        tools=[],
        response_format={"type": "text"},
        tool_choice="none",
        stop=None,
        seed=None,
        logit_bias=None,
        stream_options=None,
        knowledge=None,
        top_p=None,
    )
    assert response.status_code == 200, response.text


async def test_prompts_are_never_cut(service: Service) -> None:
    limit = service.engine.info.context_length
    version = service.version
    for body in (chat_body("x" * limit), chat_body("x", max_tokens=limit)):
        response = await service.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert error(response)["code"] == "context_length_exceeded"
        assert error(response)["param"] == "messages"
    assert service.version == version


async def test_the_answer_may_fill_the_context(service: Service) -> None:
    body = chat_body("x" * 900)
    del body["max_tokens"]
    answer = (await service.http.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["total_tokens"] == service.engine.info.context_length
    await service.put(long="x" * 40)
    answer = (await service.http.post("/v1/chat/completions", json={**body, "knowledge": {"min_score": -1}})).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["knowledge"]["facts"]) == 1


async def test_unknown_version_is_refused_after_a_wait(service: Service) -> None:
    response = await service.chat(knowledge={"min_version": 7})
    assert response.status_code == 409
    assert error(response)["code"] == "knowledge_version_unavailable"
    assert error(response)["param"] == "knowledge.min_version"
