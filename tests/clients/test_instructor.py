"""instructor, in each of the modes that ask for something else."""

from __future__ import annotations

import pytest

from tests.clients.fact import REFUSED, UNHEARD_OF
from tests.clients.ticket import MODEL, QUESTION, Ticket

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
# Greedy: a small model that draws its tokens may never end a string, whatever the grammar allows.
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_retries": 0, "temperature": 0}


@pytest.mark.feature("instructor", "chat", "forms", "tools")
@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA"])
def test_a_response_model(url: str, mode: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    client = instructor.from_openai(plain, mode=instructor.Mode[mode])
    if mode == "JSON":  # asks for any JSON object: a form that the model must find by itself
        ticket = client.chat.completions.create(
            **ASKED,
            response_model=Ticket,
            extra_body={"guided_json": Ticket.model_json_schema(), "response_format": None},
        )
    else:
        ticket = client.chat.completions.create(**ASKED, response_model=Ticket)
    assert isinstance(ticket, Ticket)
    plain.close()


@pytest.mark.feature("instructor", "responses")
def test_a_response_model_by_responses(url: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    client = instructor.from_openai(plain, mode=instructor.Mode.RESPONSES_TOOLS)
    ticket = client.responses.create(model=MODEL, input=QUESTION, response_model=Ticket, max_retries=0)
    assert isinstance(ticket, Ticket)
    plain.close()


@pytest.mark.feature("instructor", "streaming", "streamed tools")
def test_partial_models(url: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    client = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    *_, last = client.chat.completions.create_partial(**ASKED, response_model=Ticket)
    assert Ticket.model_validate(last.model_dump())
    plain.close()


@pytest.mark.feature("instructor", "knowledge")
def test_knowledge(url: str) -> None:
    plain = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
    with pytest.raises(Exception, match=REFUSED):
        client.chat.completions.create(**ASKED, response_model=Ticket, extra_body=UNHEARD_OF)
    plain.close()
