"""The official client against a real socket: whatever it promises its users holds here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.live import Live, listening
from tests.server.support import FACTS, MODEL, QUESTION, build_services, until

USER = [{"role": "user", "content": QUESTION}]
KNOWLEDGE = {"ignore_eos": True, "knowledge": {"top_k": 2}}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    services = build_services(tmp_path_factory.mktemp("openai"), tiny, encoder, max_running=1)
    with listening(services, max_running=1, max_waiting=1) as live:
        yield live
        live.until_idle()


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        if live.context.services.store.snapshot.version == 0:
            facts = [{"id": id, "text": text} for id, text in FACTS.items()]
            admin = openai.OpenAI(base_url=live.url, api_key="none")
            assert admin.put("/admin/kb/facts", cast_to=object, body={"facts": facts})
            admin.close()
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=5, logprobs=True, top_logprobs=2, extra_body=KNOWLEDGE
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert choice.logprobs
    assert choice.logprobs.content
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 5
    assert answer.usage
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra
    assert answer.model_extra["knowledge"]["facts"][0]["id"] == "ceo"


def test_streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=USER,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        extra_body=KNOWLEDGE,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 6
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-2].model_extra
    assert chunks[-2].model_extra["knowledge"]["version"] == 1
    tokens = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content or ()]
    assert len(tokens) == 6


def test_stream_helper(client: openai.OpenAI) -> None:
    """The client's own accumulator agrees with what it accumulates."""
    with client.chat.completions.stream(model=MODEL, messages=USER, max_tokens=6, extra_body=KNOWLEDGE) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.current_completion_snapshot
    assert final.choices[0].message.content == "".join(deltas)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="One two", max_tokens=3, logprobs=2, echo=True)
    choice = answer.choices[0]
    assert choice.text.startswith("One two")
    assert choice.logprobs
    assert choice.logprobs.tokens
    assert choice.logprobs.text_offset
    assert choice.logprobs.text_offset[:3] == [0, 1, 2]
    parts = list(client.completions.create(model=MODEL, prompt="One two", max_tokens=3, stream=True))
    assert parts[-1].choices[0].finish_reason in ("length", "stop")


def test_embeddings_models(client: openai.OpenAI, encoder: MiniLMEncoder) -> None:
    embedding = client.embeddings.create(model="all-minilm-l6-v2", input=["a text"]).data[0].embedding
    np.testing.assert_array_equal(np.array(embedding, dtype=np.float32), encoder.embed(["a text"])[0])
    assert [model.id for model in client.models.list()] == [MODEL, "all-minilm-l6-v2"]


def test_errors_have_their_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=USER, temperature=9)
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 3000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=USER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.ConflictError):
        client.chat.completions.create(model=MODEL, messages=USER, extra_body={"knowledge": {"min_version": 99}})
    with pytest.raises(openai.BadRequestError) as functions:
        client.chat.completions.create(model=MODEL, messages=USER, functions=[{"name": "f"}])
    assert functions.value.param == "functions"


def test_overload_is_a_rate_limit_that_the_client_waits_out(live: Live, client: openai.OpenAI) -> None:
    busy = [
        client.chat.completions.create(model=MODEL, messages=USER, max_tokens=600, stream=True, extra_body=KNOWLEDGE)
    ]
    patient = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=5)

    async def fill() -> list[object]:
        many = openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
        call = many.chat.completions.create
        answers = await asyncio.gather(
            *[call(model=MODEL, messages=USER, max_tokens=600, extra_body=KNOWLEDGE) for _ in range(4)],
            return_exceptions=True,
        )
        await many.close()
        return list(answers)

    refused = [answer for answer in asyncio.run(fill()) if isinstance(answer, openai.RateLimitError)]
    assert refused
    assert refused[0].code == "server_overloaded"
    assert int(refused[0].response.headers["retry-after"]) >= 1
    for stream in busy:
        stream.close()
    assert patient.chat.completions.create(model=MODEL, messages=USER, max_tokens=2).choices
    patient.close()


def test_a_client_timeout_cancels_the_work(live: Live, client: openai.OpenAI) -> None:
    before = sum(live.cancelled(stage) for stage in ("retrieval", "queue", "decode"))
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=700, timeout=0.08, extra_body={"ignore_eos": True}
        )
    live.until_idle()
    assert sum(live.cancelled(stage) for stage in ("retrieval", "queue", "decode")) == before + 1


def test_leaving_a_stream_cancels_the_work(live: Live, client: openai.OpenAI) -> None:
    before = live.cancelled("decode")
    stream = client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=700, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while live.cancelled("decode") == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    live.until_idle()


async def test_an_async_task_that_is_cancelled_cancels_the_work(live: Live) -> None:
    before = sum(live.cancelled(stage) for stage in ("retrieval", "queue", "decode"))
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        task = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=USER, max_tokens=700, extra_body={"ignore_eos": True})
        )
        await until(lambda: live.context.generations.holding == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.to_thread(live.until_idle)
    assert sum(live.cancelled(stage) for stage in ("retrieval", "queue", "decode")) == before + 1
