"""Documents on the page: listed, looked into, and deleted only by who says so twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.console.conftest import NARROW, WIDE
from tests.server.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
PICTURES = os.environ.get("PICTURES")
TITLE = "<b>Refunds</b>"
HANDBOOK = (
    f"# {TITLE}\n\nTickets are given back at the desk.\n\n## Deadlines\n\nA refund must be asked for in thirty days."
)


def put(url: str, *names: str) -> None:
    documents = [{"id": name, "text": HANDBOOK, "format": "markdown"} for name in names]
    reply = httpx.put(f"{url}/admin/kb/documents", json={"documents": documents}, timeout=60)
    assert reply.status_code == 200, reply.text


def listed(page: Any) -> list[str]:
    return [str(one.get_attribute("data-document")) for one in page.locator("#documents > li").all()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_document_is_looked_into_and_deleted(
    tiny_server: Live, open_page: Callable[..., Any], viewport: dict[str, int], scheme: str
) -> None:
    put(tiny_server.url, "handbook", "long." + "x" * 80)
    page = open_page(tiny_server.url, viewport=viewport, color_scheme=scheme)
    page.get_by_text("Documents", exact=True).click()
    handbook = page.locator('[data-document="handbook"]')
    handbook.get_by_text(TITLE).wait_for()
    page.get_by_role("button", name="Facts of handbook").click()
    page.locator("#of").wait_for()
    page.locator("#listed .origin").nth(1).wait_for()
    origins = page.locator("#listed .origin").all_inner_texts()
    assert sorted(origins) == [f"handbook › {TITLE}", f"handbook › {TITLE} › Deadlines"]
    assert page.locator("main b").count() == 0
    page.get_by_role("button", name="Delete document handbook").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    if PICTURES:
        handbook.scroll_into_view_if_needed()
        page.screenshot(path=Path(PICTURES) / f"documents-{viewport['width']}-{scheme}.png")
    handbook.get_by_role("button", name="No").click()
    assert len(listed(page)) == 2
    page.get_by_role("button", name="Delete document handbook").click()
    handbook.get_by_role("button", name="Yes, delete").click()
    handbook.wait_for(state="detached")
    page.get_by_text("It has no facts any more.").wait_for()
    page.get_by_role("button", name="All facts").click()
    page.locator('#listed [data-fact="staff-ceo"]').wait_for()


def test_one_that_was_replaced_meanwhile_is_not_deleted_unseen(
    tiny_server: Live, open_page: Callable[..., Any]
) -> None:
    put(tiny_server.url, "handbook")
    page = open_page(tiny_server.url)
    page.get_by_text("Documents", exact=True).click()
    handbook = page.locator('[data-document="handbook"]')
    page.get_by_role("button", name="Delete document handbook").click()
    changed = {"id": "handbook", "text": HANDBOOK.replace("thirty", "fourteen"), "format": "markdown"}
    httpx.put(f"{tiny_server.url}/admin/kb/documents", json={"documents": [changed]}, timeout=60).raise_for_status()
    handbook.get_by_text("v3").wait_for()
    handbook.get_by_role("button", name="Yes, delete").click()
    handbook.get_by_role("alert").wait_for()
    assert listed(page) == ["handbook"]
