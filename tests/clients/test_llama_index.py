"""LlamaIndex, on version 2 of the official client: in an environment of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.fact import REFUSED, UNHEARD_OF
from tests.clients.ticket import MODEL, QUESTION, Ticket

llms = pytest.importorskip("llama_index.llms.openai_like")
embeddings = pytest.importorskip("llama_index.embeddings.openai_like")
core = pytest.importorskip("llama_index.core")
tools = pytest.importorskip("llama_index.core.tools")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow


def model(url: str, **fields: Any) -> Any:
    named = {"model": MODEL, "api_base": url, "api_key": "none", "max_retries": 0, "context_window": 16384}
    return llms.OpenAILike(**named, is_chat_model=True, is_function_calling_model=True, **fields)


@pytest.mark.feature("LlamaIndex", "chat", "streaming")
def test_chat(url: str) -> None:
    short = model(url, max_tokens=8, temperature=0.0)
    said = short.complete(QUESTION).text
    assert [part.text for part in short.stream_complete(QUESTION)][-1] == said


@pytest.mark.feature("LlamaIndex", "forms")
def test_a_structured_answer(url: str) -> None:
    structured = model(url, should_use_structured_outputs=True)
    assert isinstance(structured.structured_predict(Ticket, core.PromptTemplate(QUESTION)), Ticket)


@pytest.mark.feature("LlamaIndex", "tools", "streamed tools")
@pytest.mark.parametrize("streamed", [False, True])
def test_tools(url: str, streamed: bool) -> None:
    def sell(line: str, child: bool) -> str:
        """Sell a ticket."""
        return f"{line} {child}"

    function = tools.FunctionTool.from_defaults(sell, fn_schema=Ticket)
    asked = {"tools": [function], "user_msg": QUESTION, "tool_required": True, "allow_parallel_tool_calls": False}
    caller = model(url)
    answer = list(caller.stream_chat_with_tools(**asked))[-1] if streamed else caller.chat_with_tools(**asked)
    calls = caller.get_tool_calls_from_response(answer)
    assert calls
    assert all(Ticket.model_validate(call.tool_kwargs) for call in calls)


@pytest.mark.feature("LlamaIndex", "embeddings")
def test_embeddings(url: str) -> None:
    encoder = embeddings.OpenAILikeEmbedding(model_name="all-minilm-l6-v2", api_base=url, api_key="none")
    assert [len(one) for one in encoder.get_text_embedding_batch(["a tram", "a ferry"])] == [384, 384]


@pytest.mark.feature("LlamaIndex", "knowledge")
def test_knowledge(url: str) -> None:
    with pytest.raises(openai.OpenAIError, match=REFUSED):
        model(url, additional_kwargs={"extra_body": UNHEARD_OF}).complete(QUESTION)
