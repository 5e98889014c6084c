"""The console on the model that is shipped: edit, ask, and the answer is another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import FACTS, NARROW, put

pytestmark = [pytest.mark.slow, pytest.mark.smollm2, pytest.mark.timeout(180)]

CEO = "Who is the chief executive of Quillhaven Transit?"
PICTURES = os.environ.get("PICTURES")
"""A directory to draw docs' pictures into."""


def ask(page: Any, question: str = CEO) -> None:
    page.get_by_role("textbox", name="Question").fill(question)
    page.keyboard.press("Enter")
    page.locator("#grounded").wait_for()


def edit(page: Any, fact: str, text: str) -> None:
    mounted = page.get_by_role("region", name="Mounted facts")
    mounted.get_by_role("button", name=f"Edit {fact}").click()
    mounted.get_by_role("textbox", name=f"Text of {fact}").fill(text)
    mounted.get_by_role("button", name="Save").click()
    page.locator("#edited:not(:empty)").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_edit_changes_the_next_answer(real_server: str, open_page: Callable[..., Any], scheme: str) -> None:
    put(real_server, **FACTS)
    page = open_page(real_server, color_scheme=scheme)
    ask(page)
    assert "Mara Ellison" in page.inner_text("#answer")
    fact = page.locator('[data-fact="staff-ceo"]').first
    assert {"Mara", "Ellison"} <= set(fact.locator("mark").all_inner_texts())
    assert not {"the", "who"} & set(fact.locator("mark").all_inner_texts())
    numbers = fact.locator(".bar .number").all_inner_texts()
    assert [float(score) > 0.5 for score in numbers[:2]] == [True, True]
    assert 0 < int(numbers[2].removesuffix(" %")) <= 100

    edit(page, "staff-ceo", FACTS["staff-ceo"].replace("Mara Ellison", "Jonas Wetherby"))
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.press("Enter")
    page.locator("#earlier").wait_for()
    page.locator("#grounded").wait_for()
    assert "Jonas Wetherby" in page.inner_text("#answer")
    assert "Mara Ellison" in page.inner_text("#earlier")
    assert "Wetherby" in fact.locator("mark").all_inner_texts()
    for kind, points in (("ttft", 2), ("edit", 1)):
        assert page.locator(f'[data-plot="{kind}"] circle.here').count() == points
    page.locator('[data-plot="edit"] circle.there').first.wait_for()
    page.get_by_role("button", name="Changes of version").first.click()
    page.locator("#diff ins").first.wait_for()
    if PICTURES and scheme == "light":
        page.screenshot(path=Path(PICTURES) / "console.png")


def test_an_answer_streams_in_and_can_be_stopped(real_server: str, open_page: Callable[..., Any]) -> None:
    put(real_server, **FACTS)
    page = open_page(real_server)
    page.get_by_text("Options").click()
    page.get_by_label("Tokens at most").fill("1000")
    page.get_by_role("textbox", name="Question").fill("Write a long story about a lighthouse keeper and the sea.")
    page.get_by_role("button", name="Ask").click()
    said = page.locator('#answer[aria-busy="true"]')
    said.wait_for()
    lengths: list[int] = []
    while len(set(lengths)) < 4:  # grows before our eyes
        lengths.append(len(said.inner_text()))
        page.wait_for_timeout(50)
    assert lengths == sorted(lengths)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    ask(page)
    assert "Mara Ellison" in page.inner_text("#answer")


def test_what_the_model_says_of_markup_stays_text(real_server: str, open_page: Callable[..., Any]) -> None:
    code = '<img src=x onerror="document.title=1">'
    put(real_server, **FACTS | {"code": f"The badge code of the Quillhaven lighthouse is {code} and nothing else."})
    page = open_page(real_server)
    ask(page, "What is the badge code of the Quillhaven lighthouse?")
    page.locator('[data-fact="code"] .text').first.wait_for()
    assert code in page.locator('[data-fact="code"] .text').first.inner_text()
    assert page.locator('img[src="x"]').count() == 0
    assert page.title() == "KalmaGrove"


def test_narrow(real_server: str, open_page: Callable[..., Any]) -> None:
    put(real_server, **FACTS)
    page = open_page(real_server, viewport=NARROW)
    ask(page)
    page.locator('[data-fact="staff-ceo"] mark').first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / "console-narrow.png")
