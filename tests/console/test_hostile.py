"""The console among people who do not mean well, or do several things at once, and beside a server that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.keys import Keys, hash_key
from tests.console.conftest import FACTS, NARROW, put
from tests.server.live import Live, listening
from tests.server.support import build_services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Open = Callable[..., Any]
DROP = """(names) => {
  const data = new DataTransfer();
  for (const [name, text] of names) data.items.add(new File([text], name));
  document.querySelector(".transfer").dispatchEvent(
    new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


def knowledge(page: Any) -> Any:
    return page.get_by_role("region", name="Knowledge")


def line(id: str, text: str = "The harbour has three piers.", **more: Any) -> str:
    return json.dumps({"id": id, "text": text, **more}) + "\n"


def edit(page: Any, id: str, text: str) -> Any:
    """Opens the editor in the list and types; the row."""
    row = page.locator(f'#listed [data-fact="{id}"]')
    row.get_by_role("button", name=f"Edit {id}").click()
    row.get_by_role("textbox", name=f"Text of {id}").fill(text)
    return row


def said(live: Live, id: str) -> str:
    return str(httpx.get(f"{live.url}/admin/kb/facts/{id}").json()["text"])


def test_what_somebody_else_saved_meanwhile_is_not_overwritten_unseen(tiny_server: Live, open_page: Open) -> None:
    mine, theirs = open_page(tiny_server.url), open_page(tiny_server.url)
    row = edit(mine, "staff-ceo", "I say so.")
    edit(theirs, "staff-ceo", "They say so.").get_by_role("button", name="Save").click()
    theirs.locator('#listed [data-fact="staff-ceo"] .text').get_by_text("They say so.").wait_for()
    row.get_by_role("button", name="Save").click()
    row.get_by_role("alert").get_by_text("They say so.").wait_for()
    assert said(tiny_server, "staff-ceo") == "They say so."
    row.get_by_role("button", name="Save").click()
    row.locator(".text").get_by_text("I say so.").wait_for()
    assert said(tiny_server, "staff-ceo") == "I say so."


def test_a_new_fact_does_not_take_the_place_of_another_unseen(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.get_by_role("button", name="Add a fact").click()
    page.get_by_label("Id").fill("staff-ceo")
    page.get_by_label("Text", exact=True).fill("A new one.")
    page.get_by_role("button", name="Save").click()
    knowledge(page).get_by_role("alert").get_by_text(FACTS["staff-ceo"]).wait_for()
    assert said(tiny_server, "staff-ceo") == FACTS["staff-ceo"]
    page.get_by_role("button", name="Save").click()
    page.locator('#listed [data-fact="staff-ceo"] .text').get_by_text("A new one.").wait_for()


def test_what_is_typed_outlives_a_key_that_is_taken_away(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, open_page: Open
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann:{hash_key('kg-ann').hex()}\n")
    keys = Keys.read(path, path)
    with listening(build_services(tmp_path, tiny, encoder, keys)) as live:
        ann, eve = {"Authorization": "Bearer kg-ann"}, {"Authorization": "Bearer kg-eve"}
        facts = [{"id": id, "text": text} for id, text in FACTS.items()]
        httpx.put(f"{live.url}/admin/kb/facts", json={"facts": facts}, headers=ann, timeout=60).raise_for_status()
        page = open_page(live.url)
        for label in ("API key", "Admin key"):
            page.get_by_label(label).fill("kg-ann")
        page.get_by_role("button", name="Use keys").click()
        row = edit(page, "staff-ceo", "Typed with care.")
        path.write_text(f"eve:{hash_key('kg-eve').hex()}\n")
        live.loop.call_soon_threadsafe(keys.refresh)
        facts = [{"id": "new", "text": "The list is read again."}]
        while (
            httpx.put(f"{live.url}/admin/kb/facts", json={"facts": facts}, headers=eve, timeout=60).status_code != 200
        ):
            pass
        knowledge(page).get_by_role("alert").first.wait_for()
        row.get_by_role("button", name="Save").click()
        row.get_by_role("alert").get_by_text("The key is not known.").wait_for()
        assert row.get_by_role("textbox").input_value() == "Typed with care."
        page.locator('a[href="#keys"]').first.click()
        for label in ("API key", "Admin key"):
            page.get_by_label(label).fill("kg-eve")
        page.get_by_role("button", name="Use keys").click()
        row.get_by_role("button", name="Save").click()
        row.locator(".text").get_by_text("Typed with care.").wait_for()


def test_a_key_that_is_no_key_is_told_as_such(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.locator('a[href="#keys"]').click()
    page.get_by_label("API key").fill("ключ")
    page.get_by_role("button", name="Use keys").click()
    page.locator("form.keys").get_by_text("The key is not known.").wait_for()


@pytest.fixture
def frozen(tiny_server: Live) -> Iterator[Callable[[], None]]:
    """Stops the server, connections open and all, until the test's end."""
    thaw = threading.Event()
    yield lambda: tiny_server.loop.call_soon_threadsafe(thaw.wait) and None
    thaw.set()


def test_a_server_that_stands_still_is_told(tiny_server: Live, open_page: Open, frozen: Callable[[], None]) -> None:
    """And is not asked more and more while it does."""
    page = open_page(tiny_server.url)
    page.locator(".state.ready").wait_for()
    asked: list[Any] = []
    ended: list[Any] = []
    page.on("request", lambda request: asked.append(request))
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: ended.append(request))
    frozen()
    page.locator(".state.gone").wait_for()
    with page.expect_event("requestfailed"):
        pass
    page.wait_for_timeout(6000)
    waiting = [request.url for request in asked if request not in ended]
    assert len(waiting) == len(set(waiting))


def test_a_file_dropped_beside_the_target_does_not_replace_the_page(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    kept = page.evaluate(
        """() => ["dragover", "drop"].map((kind) => {
          const data = new DataTransfer();
          data.items.add(new File(["x"], "x.html"));
          return !document.querySelector("h1").dispatchEvent(
            new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        })"""
    )
    assert kept == [True, True]


def test_a_directory_is_told_as_such(tiny_server: Live, open_page: Open, tmp_path: Path) -> None:
    """And not as a server that does not answer."""
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    path = tmp_path / "facts.ndjson"
    path.mkdir()
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'other'}))")
    browser = page.context.new_cdp_session(page)
    other = browser.send("Runtime.evaluate", {"expression": "document.querySelector('#other')"})["result"]["objectId"]
    browser.send("DOM.setFileInputFiles", {"files": [str(path)], "objectId": other})
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(document.querySelector("#other").files[0]);
          document.querySelector(".transfer").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
    )
    knowledge(page).get_by_role("alert").get_by_text("facts.ndjson cannot be read").wait_for()
    assert page.locator(".state.ready").count() == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\0\x01\x02\xff" * 50_000, "line 1"),
        ("x" * 300_000, "line 1"),
        (line("a") + "{bad\n", "line 2"),
        (line("b") + "[]\n", "line 2"),
        (line("c", "<img src=x onerror=\"document.title='owned'\"> " * 400), "text"),
        ("", None),
        ("\n\r\n  \n", None),
    ],
    ids=["binary", "no line ends", "no JSON", "no object", "long", "empty", "blank"],
)
def test_files_that_are_no_facts(tiny_server: Live, open_page: Open, content: str, told: str | None) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    page.evaluate(DROP, [["facts.ndjson", content]])
    if told:
        knowledge(page).get_by_role("alert").get_by_text(told).first.wait_for()
    else:
        page.get_by_text("0 facts imported").wait_for()
    assert page.title() == "KalmaGrove"


def test_several_files_are_imported_one_after_the_other(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    page.evaluate(DROP, [[f"{n}.ndjson", line(f"n{n}", f"Pier {n} is closed.")] for n in range(3)])
    page.get_by_text("1 fact imported from 2.ndjson.").wait_for()
    assert [said(tiny_server, f"n{n}") for n in range(3)] == [f"Pier {n} is closed." for n in range(3)]


def test_what_was_imported_before_a_bad_line_is_told(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    good = [line(f"n{n}", metadata={"note": "x" * 900}) for n in range(64)]
    page.evaluate(DROP, [["facts.ndjson", "".join(good) + "{bad\n"]])
    knowledge(page).get_by_role("alert").get_by_text("line 65").wait_for()
    held = httpx.get(f"{tiny_server.url}/admin/kb/version").json()["facts"] - len(FACTS)
    assert 0 < held < 64
    page.get_by_text(f"{held} facts imported from facts.ndjson before that.").wait_for()


def test_an_export_that_breaks_off_is_not_saved_as_if_it_were_whole(
    tiny_server: Live, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()

    def breaking(facts: Any) -> Iterator[bytes]:
        for number in range(300):
            yield line(f"n{number}").encode()
        raise RuntimeError

    monkeypatch.setattr("server.http.routes.transfer.export_lines", breaking)
    downloads: list[Any] = []
    page.on("download", lambda download: downloads.append(download))
    page.get_by_role("button", name="Export").click()
    knowledge(page).get_by_role("alert").get_by_text("The server had an error.").wait_for()
    assert downloads == []


RLO, LRI = "\u202e", "\u2066"


def test_marks_of_direction_turn_nothing_around_that_is_not_theirs(tiny_server: Live, open_page: Open) -> None:
    """Neither the version beside a text nor what metadata were before and are after."""
    url = f"{tiny_server.url}/admin/kb/facts"
    for value in (f"one{RLO}{LRI}", "two"):
        fact = {"id": "turned", "text": "Nothing changes.", "metadata": {"note": value}}
        assert httpx.put(url, json={"facts": [fact]}, timeout=60).status_code == 200
    put(tiny_server.url, hebrew="התחנה המרכזית נסגרת בחצות.")
    page = open_page(tiny_server.url)
    page.get_by_role("button", name="Changes of version 3").click()
    shown = page.locator('#diff [data-fact="turned"] .hint')
    shown.wait_for()
    assert RLO not in shown.inner_text()
    assert LRI not in shown.inner_text()
    assert "\\u202e" in shown.inner_text()
    page.evaluate(DROP, [[f"a{RLO}{LRI}.ndjson", ""]])
    page.get_by_text("0 facts imported from a.ndjson.").wait_for()
    text = page.locator('#listed [data-fact="hebrew"] .text')
    assert text.evaluate("(element) => getComputedStyle(element).direction") == "rtl"


def test_long_messages_stay_within_a_narrow_page(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url, viewport=NARROW)
    page.locator("#listed .fact").first.wait_for()
    page.evaluate(DROP, [["x" * 250, line("y" * 300)]])
    knowledge(page).get_by_role("alert").first.wait_for()
    page.evaluate(DROP, [["x" * 250, ""]])
    page.get_by_text("0 facts imported").wait_for()
    page.get_by_label("Find facts").fill("z" * 5000)
    page.keyboard.press("Enter")
    page.get_by_text("zzz").first.wait_for()
    page.get_by_role("button", name="Add a fact").click()
    page.get_by_label("Id").fill("!" * 128)
    page.get_by_label("Text", exact=True).fill("w" * 100_000)
    page.get_by_role("button", name="Save").click()
    knowledge(page).get_by_role("alert").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


def test_back_and_forward_lose_nothing(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.get_by_role("textbox", name="Question").fill("Who is it?")
    page.locator('a[href="#keys"]').click()
    page.get_by_label("API key").wait_for()
    page.evaluate("history.back()")
    page.evaluate("history.forward()")
    page.locator(".state.ready").wait_for()
    assert page.get_by_role("textbox", name="Question").input_value() == "Who is it?"
    assert page.url == f"{tiny_server.url}/console"
