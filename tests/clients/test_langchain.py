"""LangChain's models, tools and embeddings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.fact import REFUSED, UNHEARD_OF
from tests.clients.ticket import MODEL, QUESTION, Ticket

langchain_openai = pytest.importorskip("langchain_openai")
openai = pytest.importorskip("openai")
messages = pytest.importorskip("langchain_core.messages")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["chat", "responses"])
def model(url: str, request: pytest.FixtureRequest) -> Any:
    fields = {"model": MODEL, "base_url": url, "api_key": "none", "max_retries": 0, "timeout": 120}
    return langchain_openai.ChatOpenAI(**fields, use_responses_api=request.param == "responses")


@pytest.mark.feature("LangChain (Python)", "chat", "streaming", "responses")
async def test_chat(model: Any) -> None:
    short = model.bind(max_tokens=8, temperature=0)
    assert short.invoke(QUESTION).text == "".join([part.text async for part in short.astream(QUESTION)])


@pytest.mark.feature("LangChain (Python)", "knowledge")
def test_knowledge(model: Any) -> None:
    with pytest.raises(openai.OpenAIError, match=REFUSED):
        model.bind(extra_body=UNHEARD_OF).invoke(QUESTION)


@pytest.mark.feature("LangChain (Python)", "forms", "responses")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_with_structured_output(model: Any, method: str) -> None:
    assert isinstance(model.with_structured_output(Ticket, method=method).invoke(QUESTION), Ticket)


@pytest.mark.feature("LangChain (Python)", "tools", "streamed tools", "responses")
@pytest.mark.parametrize("streamed", [False, True])
def test_bind_tools(model: Any, streamed: bool) -> None:
    """Called, answered, and all of it sent back."""
    bound = model.bind_tools([Ticket], tool_choice="any", parallel_tool_calls=False)
    if streamed:
        parts = list(bound.stream(QUESTION))
        answer = parts[0]
        for part in parts[1:]:
            answer = answer + part
    else:
        answer = bound.invoke(QUESTION)
    assert answer.tool_calls
    assert all(Ticket.model_validate(call["args"]) for call in answer.tool_calls)
    sold = [messages.ToolMessage("sold", tool_call_id=call["id"]) for call in answer.tool_calls]
    history = [messages.HumanMessage(QUESTION), answer, *sold]
    assert isinstance(model.bind(max_tokens=4).invoke(history), messages.AIMessage)


@pytest.mark.feature("LangChain (Python)", "embeddings")
def test_embeddings(url: str) -> None:
    """Token ids are refused, and the refusal says what to do."""
    fields = {"model": "all-minilm-l6-v2", "base_url": url, "api_key": "none", "max_retries": 0}
    embeddings = langchain_openai.OpenAIEmbeddings(**fields, check_embedding_ctx_length=False)
    assert [len(vector) for vector in embeddings.embed_documents(["a tram", "a ferry"])] == [384, 384]
