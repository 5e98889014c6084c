"""How the page behaves, whatever the model says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from kb.facts import Upsert
from loadtests.serving import free_port
from server.http.keys import Keys, hash_key
from tests.console.conftest import FACTS, NARROW, put
from tests.server.live import Live, listening, process
from tests.server.support import build_services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Open = Callable[..., Any]
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b> & co"


@pytest.fixture
def locked_server(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    for role in ("client", "admin"):
        (tmp_path / role).write_text(f"ann:{hash_key(f'kg-{role}').hex()}\n")
    keys = Keys.read(tmp_path / "client", tmp_path / "admin")
    with listening(build_services(tmp_path, tiny, encoder, keys)) as live:
        yield live


def listed(page: Any) -> list[str]:
    return [str(one.get_attribute("data-fact")) for one in page.locator("#listed .fact").all()]


def ask(page: Any, question: str = "Who is the chief executive of Quillhaven Transit?") -> None:
    page.get_by_role("textbox", name="Question").fill(question)
    page.keyboard.press("Enter")


def test_a_fact_that_contains_markup_stays_text(tiny_server: Live, open_page: Open) -> None:
    put(tiny_server.url, markup=f"Quillhaven says {MARKUP}")
    put(tiny_server.url, markup=f"Quillhaven writes {MARKUP}")
    page = open_page(tiny_server.url)
    for place in ("#listed", "#found", "#diff"):
        if place == "#found":
            page.get_by_label("Find facts").fill("What does Quillhaven write?")
            page.keyboard.press("Enter")
        if place == "#diff":
            page.get_by_role("button", name="Changes of version 3").click()
        text = page.locator(f'{place} [data-fact="markup"] .text').last
        text.wait_for()
        assert text.inner_text().endswith(f"Quillhaven writes {MARKUP}")
    page.locator('#found [data-fact="markup"]').get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Text of markup").wait_for()
    assert page.get_by_role("textbox", name="Text of markup").input_value() == f"Quillhaven writes {MARKUP}"
    assert page.locator('img[src="x"], main b, main script').count() == 0
    assert page.title() == "KalmaGrove"


def test_markup_that_reached_the_code_would_be_blocked(tiny_server: Live, chromium: Any) -> None:
    """The policy, tried: neither script nor HTML can be made of a string, nor anything be sent elsewhere."""
    page = chromium.new_page()
    page.goto(f"{tiny_server.url}/console")
    tried = """async () => {
      const outcome = async (attempt) => { try { await attempt(); return "done" } catch (error) { return error.name } };
      return [
        await outcome(() => { document.body.innerHTML = "<b>x</b>" }),
        await outcome(() => { document.createElement("script").text = "document.title = 1" }),
        await outcome(() => fetch("http://127.0.0.1:9/")),
      ];
    }"""
    assert page.evaluate(tried) == ["TypeError", "TypeError", "TypeError"]
    page.context.close()


def test_keys_are_asked_for_checked_and_kept_in_memory_only(locked_server: Live, open_page: Open) -> None:
    page = open_page(locked_server.url)
    client, admin = page.get_by_label("API key"), page.get_by_label("Admin key")
    client.fill("kg-guessed")
    admin.fill("kg-client")
    page.get_by_role("button", name="Use keys").click()
    keys = page.locator("form.keys")
    keys.get_by_text("The key is not known.").wait_for()
    keys.get_by_text("This endpoint needs an admin key.").wait_for()
    ask(page)
    page.get_by_role("region", name="Ask").get_by_role("alert").get_by_text("The key is not known.").wait_for()
    page.get_by_role("region", name="Knowledge").get_by_role("link", name="Enter a key").first.click()
    client.fill("kg-client")
    admin.fill("kg-admin")
    page.keyboard.press("Enter")
    keys.wait_for(state="detached")
    page.get_by_text("holds no facts").wait_for()
    ask(page)
    page.get_by_text("None: no fact is relevant enough.").wait_for()
    assert page.locator(".trouble").count() == 0
    kept = page.evaluate(
        "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, location.href]"
    )
    assert kept == ["{}", "{}", "", f"{locked_server.url}/console"]
    assert "kg-" not in page.content()
    page.reload()
    page.get_by_role("button", name="Use keys").wait_for()
    assert client.input_value() == ""


def test_a_bound_key_is_shown_its_own_namespace(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, open_page: Open
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann:{hash_key('kg-acme').hex()} read=acme edit=acme\n")
    services = build_services(tmp_path, tiny, encoder, Keys.read(path, path))
    services.store.apply([Upsert("ours", "acme", "The chief executive of Quillhaven Transit is Mara Ellison.")])
    services.store.apply([Upsert("theirs", "default", "The chief executive of Quillhaven Transit is somebody else.")])
    with listening(services) as live:
        page = open_page(live.url)
        page.get_by_label("API key").fill("kg-acme")
        page.get_by_label("Admin key").fill("kg-acme")
        page.get_by_role("button", name="Use keys").click()
        page.locator('#listed [data-fact="ours"]').wait_for()
        assert page.get_by_label("Namespace").input_value() == "acme"
        assert listed(page) == ["ours"]
        page.locator("#version").get_by_text("knowledge v1").wait_for()
        ask(page)
        page.locator('[data-fact="ours"]').nth(1).wait_for()
        assert page.locator('[data-fact="theirs"]').count() == 0
        assert page.locator(".versions li").count() == 1


def test_a_server_that_is_gone_is_told_and_found_again(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, open_page: Open
) -> None:
    with listening(build_services(tmp_path, tiny, encoder)) as live:
        put(live.url, **FACTS)
        page = open_page(live.url)
        page.locator("#listed .fact").first.wait_for()
        page.get_by_role("textbox", name="Question").fill("Who is it?")
    page.keyboard.press("Enter")
    page.locator(".state.gone").wait_for()
    page.locator(".banner").get_by_text("The server does not answer.").wait_for()
    page.get_by_role("region", name="Ask").get_by_role("alert").get_by_text("does not answer").wait_for()
    assert page.get_by_role("textbox", name="Question").input_value() == "Who is it?"
    assert len(listed(page)) == 3
    port = int(live.url.rsplit(":", 1)[1])
    with listening(build_services(tmp_path, tiny, encoder), at=port):
        page.locator(".state.ready").wait_for()
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("First words after").wait_for()
        assert page.locator(".trouble").count() == 0


def test_where_admin_is_apart_the_page_is_there_and_asks_there(
    tmp_path: Path, tiny: Checkpoint, open_page: Open
) -> None:
    shutil.copytree(tiny.directory, tmp_path / "models" / "tiny")
    port = free_port()
    settings = {"DATA_DIR": str(tmp_path), "MODEL": "tiny", "CACHE_GIB": "0.05", "ADMIN_PORT": str(port)}
    with process({f"KALMAGROVE_{name}": value for name, value in settings.items()}, tmp_path / "log") as (_, public):
        admin = f"http://127.0.0.1:{port}"
        put(admin, **FACTS)
        page = open_page(admin)
        page.locator("#listed .fact").first.wait_for()
        ask(page)
        page.get_by_text("First words after").wait_for()
        assert page.locator(".trouble").count() == 0
        assert httpx.get(f"{public}/console").status_code == 404


def test_at_375_pixels_nothing_scrolls_sideways(tiny_server: Live, open_page: Open) -> None:
    put(tiny_server.url, **{"long-" + "x" * 120: "Quillhaven" * 20, **FACTS})
    page = open_page(tiny_server.url, viewport=NARROW)
    page.locator("#listed .fact").first.wait_for()
    page.get_by_text("Options").click()
    page.locator('a[href="#keys"]').click()
    ask(page)
    page.get_by_text("First words after").wait_for()
    page.get_by_role("button", name="Changes of version").first.click()
    page.get_by_role("button", name="Add a fact").click()
    page.locator("#listed").get_by_role("button", name="Edit").first.click()
    page.locator("#diff .fact").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    outside = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
    assert page.evaluate(f"{outside}.map((e) => e.outerHTML)") == []


def test_keyboard_only(tiny_server: Live, open_page: Open) -> None:
    """Ask, edit the mounted fact, ask again, look at what changed, go back: the mouse stays still."""
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    page.locator(".state.ready").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("Who is the chief executive of Quillhaven Transit?")
    page.keyboard.press("Enter")
    mounted = page.get_by_role("region", name="Mounted facts")
    mounted.locator('[data-fact="staff-ceo"] .text').wait_for()
    page.keyboard.press("Tab")  # out of the field, where letters are letters
    page.keyboard.press("e")
    mounted.locator("textarea").wait_for()
    page.keyboard.press("Escape")
    mounted.locator("textarea").wait_for(state="detached")
    page.keyboard.press("e")
    mounted.locator("textarea:focus").wait_for()
    page.keyboard.press("Control+End")
    page.keyboard.type(" So it is.")
    page.keyboard.press("Control+Enter")
    page.locator("#ask:focus").wait_for()
    page.locator("#edited").get_by_text("version 2").wait_for()
    page.keyboard.press("Enter")
    mounted.locator('[data-fact="staff-ceo"] .text').get_by_text("So it is.").wait_for()
    page.get_by_role("button", name="Back to version 1").wait_for()
    page.keyboard.press("v")
    tab_to(page, "Changes of version 2")
    page.keyboard.press("Enter")
    page.locator("#diff ins").first.wait_for()
    page.keyboard.press("v")
    tab_to(page, "Back to version 1")
    page.keyboard.press("Enter")
    page.locator("#diff del").first.wait_for()
    tab_to(page, "Go back to version 1")
    page.keyboard.press("Enter")
    page.get_by_text("knowledge v3").wait_for()
    facts = httpx.get(f"{tiny_server.url}/admin/kb/facts").json()["facts"]
    assert {fact["id"]: fact["text"] for fact in facts} == FACTS


def tab_to(page: Any, name: str, most: int = 60) -> None:
    """Tab until the focus, which must be visible, is on what has the name."""
    for _ in range(most):
        page.keyboard.press("Tab")
        focus = "(({ariaLabel, textContent}) => ariaLabel ?? textContent)(document.activeElement)"
        if page.evaluate(focus) == name:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    pytest.fail(f"{name} is not reached")


def test_every_control_has_a_name(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    page.locator('a[href="#keys"]').click()
    page.get_by_role("button", name="Add a fact").click()
    snapshot = page.locator("body").aria_snapshot()
    controls = re.findall(r"- (button|textbox|searchbox|spinbutton|link|img)(.*)", snapshot)
    assert len(controls) > 15
    assert [kind for kind, rest in controls if kind != "img" and not rest.startswith(' "')] == []


def test_facts_are_listed_page_by_page_added_and_deleted(tiny_server: Live, open_page: Open) -> None:
    put(tiny_server.url, **{f"n{number}": f"Platform {number} is on the left." for number in range(9)})
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    first = listed(page)
    page.get_by_role("button", name="Next").click()
    page.get_by_text("Page 2").wait_for()
    page.locator('#listed [data-fact="n8"]').wait_for()
    assert sorted(first + listed(page)) == sorted([*FACTS, *(f"n{number}" for number in range(9))])
    page.get_by_role("button", name="Previous").click()
    page.get_by_role("button", name="Add a fact").click()
    page.get_by_label("Id").fill("a new one")
    page.get_by_label("Text", exact=True).fill("The harbour has three piers.")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("region", name="Knowledge").get_by_role("alert").wait_for()  # an id has no spaces
    page.get_by_label("Id").fill("a-new-one")
    page.get_by_role("button", name="Save").click()
    page.locator('#listed [data-fact="a-new-one"]').wait_for()
    page.get_by_role("button", name="Delete a-new-one").click()
    page.locator('#listed [data-fact="a-new-one"]').wait_for(state="detached")
    put(tiny_server.url, aa="Somebody else's edit shows by itself.")
    page.locator('#listed [data-fact="aa"]').wait_for()


def test_import_by_drop_and_export(tiny_server: Live, open_page: Open, tmp_path: Path) -> None:
    page = open_page(tiny_server.url)
    page.locator("#listed .fact").first.wait_for()
    lines = "".join(json.dumps({"id": f"i{n}", "text": f"Line {n} is painted in colour {n}."}) + "\n" for n in range(5))
    dropped = """([text]) => {
      const data = new DataTransfer();
      data.items.add(new File([text], "facts.ndjson"));
      document.querySelector(".transfer").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(dropped, [lines])
    page.get_by_text("5 facts imported from facts.ndjson.").wait_for()
    page.evaluate(dropped, ['{"id": "x"}\n'])
    page.get_by_role("region", name="Knowledge").get_by_role("alert").get_by_text("line 1").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "default-v2.ndjson"
    path = tmp_path / "export"
    download.value.save_as(path)
    assert {json.loads(line)["id"] for line in path.read_text().splitlines()} == {*FACTS, *(f"i{n}" for n in range(5))}
    (tmp_path / "more.ndjson").write_text('{"id": "picked", "text": "This one was picked."}\n')
    page.get_by_label("Import").set_input_files(tmp_path / "more.ndjson")
    page.get_by_text("1 fact imported from more.ndjson.").wait_for()


def test_quantiles_are_those_of_the_histogram(tiny_server: Live, open_page: Open) -> None:
    page = open_page(tiny_server.url)
    read = """async () => {
      const {histogram, quantile, since, total} = await import("/console/app/metrics.js");
      const text = (a, b, c, all) => `# HELP x\\nx_bucket{le="0.1",s="k"} ${a}\\nx_bucket{le="0.2",s="k"} ${b}
x_bucket{le="0.4",s="k"} ${c}\\nx_bucket{le="+Inf",s="k"} ${all}\\nx_bucket{le="0.1",s="other"} 99\\nx_sum{s="k"} 5`;
      const [before, now] = [histogram(text(5, 5, 5, 5), "x", 's="k"'), histogram(text(5, 9, 14, 15), "x", 's="k"')];
      const came = since(now, before);
      return [total(came), quantile(came, 0.2), quantile(came, 0.4), quantile(came, 1), quantile(since(now, now), 0.5)];
    }"""
    assert page.evaluate(read) == [10, pytest.approx(150), pytest.approx(200), pytest.approx(400), None]
