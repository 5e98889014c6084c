"""fetch in real Chromium, from a page of another origin, which the server's settings name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.fact import ANSWER, CITED, FORCED, QUESTION
from tests.clients.ticket import MODEL

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: Debian's, or CHROMIUM=path"),
]
ASK = """async ([url, body]) => {
  const headers = {"Content-Type": "application/json", Authorization: "Bearer none"};
  const response = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
  return {status: response.status, id: response.headers.get("X-Request-Id"), body: await response.json()};
}"""
STREAM = """async ([url, body]) => {
  const headers = {"Content-Type": "application/json"};
  const response = await fetch(url, {method: "POST", headers, body: JSON.stringify({...body, stream: true})});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, pieces, text, done] = ["", 0, "", false];
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    pieces += 1;
    const lines = (rest + part.value).split("\\n");
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      if (line === "data: [DONE]") done = true;
      else text += JSON.parse(line.slice(6)).choices[0]?.delta.content ?? "";
    }
  }
  return {type: response.headers.get("Content-Type"), pieces, text, done};
}"""


@pytest.fixture(scope="module")
def page(page_url: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{page_url}/index.html")
        yield page
        browser.close()


@pytest.mark.feature("fetch in Chromium", "chat", "knowledge", "citations")
def test_an_answer(page: Any, informed: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **FORCED}
    found = page.evaluate(ASK, [f"{informed}/chat/completions", body])
    assert (found["status"], bool(found["id"])) == (200, True)
    message = found["body"]["choices"][0]["message"]
    assert (message["content"], message["annotations"][0]["url_citation"]["url"]) == (ANSWER, CITED)
    assert found["body"]["knowledge"]["facts"][0]["id"] == "ceo"


@pytest.mark.feature("fetch in Chromium", "streaming")
def test_a_stream(page: Any, informed: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], **FORCED}
    found = page.evaluate(STREAM, [f"{informed}/chat/completions", body])
    assert found["type"].startswith("text/event-stream")
    assert (found["text"], found["done"], found["pieces"] > 1) == (ANSWER, True, True)


@pytest.mark.feature("fetch in Chromium", "embeddings", "responses")
def test_other_calls(page: Any, url: str) -> None:
    found = page.evaluate(ASK, [f"{url}/embeddings", {"model": "all-minilm-l6-v2", "input": "a tram"}])
    assert len(found["body"]["data"][0]["embedding"]) == 384
    found = page.evaluate(ASK, [f"{url}/responses", {"model": MODEL, "input": QUESTION, "max_output_tokens": 4}])
    assert found["body"]["object"] == "response"


def test_admin_is_closed_to_pages(page: Any, url: str) -> None:
    closed = """(url) => fetch(url).then(() => "read", (error) => error.name)"""
    assert page.evaluate(closed, f"{url.removesuffix('/v1')}/admin/kb/version") == "TypeError"
