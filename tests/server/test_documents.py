"""Documents: split into facts, replaced and deleted as a whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kb.documents import ID_CHARS
from kb.facts import Delete
from tests.server.support import Service

DOCUMENTS = "/admin/kb/documents"
HANDBOOK = """Ünits of this handbook are numbered.

# Refunds

Tickets can be given back at the desk of the harbour.

## Deadlines

A refund must be asked for within thirty days of the journey.

```
# not a heading
```

# Lost property

What is found on board is kept for ninety days in the hall of the depot.
"""
PARTS = 5
"""Facts that this becomes."""


async def put(service: Service, status: int = 200, **fields: Any) -> dict[str, Any]:
    document = {"id": "handbook", "text": HANDBOOK, "format": "markdown", **fields}
    reply = await service.http.put(DOCUMENTS, json={"documents": [document]})
    assert reply.status_code == status, reply.text
    return dict(reply.json())


async def facts_of(service: Service, name: str = "handbook") -> list[dict[str, Any]]:
    params = {"filter": json.dumps({"document.id": {"eq": name}}), "limit": 1000}
    found = (await service.http.get("/admin/kb/facts", params=params)).json()["facts"]
    return sorted(found, key=lambda fact: int(fact["metadata"]["document"]["part"]))


async def test_facts_know_their_document_place_and_headings(service: Service) -> None:
    reply = await put(service, metadata={"town": "Velm"})
    facts = await facts_of(service)
    assert reply["documents"] == [{"id": "handbook", "namespace": "default", "facts": PARTS, "encoded": PARTS}]
    marks = [fact["metadata"].pop("document") for fact in facts]
    assert [mark["headings"] for mark in marks] == [
        [],
        ["Refunds"],
        ["Refunds", "Deadlines"],
        ["Refunds", "Deadlines"],
        ["Lost property"],
    ]
    assert {fact["metadata"]["town"] for fact in facts} == {"Velm"}
    assert {mark["parts"] for mark in marks} == {PARTS}
    for fact, mark in zip(facts, marks, strict=True):
        lead = " > ".join(mark["headings"])
        text = fact["text"].removeprefix(f"{lead}: ")
        assert HANDBOOK[mark["offset"] :].startswith(text)
    assert "# not a heading" in facts[3]["text"]


async def test_a_second_edit_encodes_only_what_changed(service: Service) -> None:
    await put(service)
    before = {fact["id"]: fact for fact in await facts_of(service)}
    reply = await put(service, text=HANDBOOK.replace("thirty", "fourteen"))
    after = {fact["id"]: fact for fact in await facts_of(service)}
    assert reply["documents"][0] == {"id": "handbook", "namespace": "default", "facts": PARTS, "encoded": 1}
    assert reply["deleted"] == 1
    assert len(before.keys() & after.keys()) == PARTS - 1
    (new,) = after.keys() - before.keys()
    assert "fourteen" in after[new]["text"]
    same = await put(service, text=HANDBOOK.replace("thirty", "fourteen"))
    assert (same["version"], same["upserted"], same["documents"][0]["encoded"]) == (reply["version"], 0, 0)


async def test_a_replaced_document_is_answered_from_at_once_and_can_be_rolled_back(service: Service) -> None:
    first = await put(service)
    knowledge = {"filter": {"document.id": {"eq": "handbook"}}, "min_score": -1.0, "max_gap": 4.0}
    await put(service, text="# Refunds\n\nNothing is given back any more.")
    answer = await service.chat("Can I give back a ticket?", knowledge=knowledge)
    (fact,) = answer.json()["knowledge"]["facts"]
    assert fact["id"] == (await facts_of(service))[0]["id"]
    await service.http.post("/admin/kb/rollback", json={"version": first["version"]})
    assert len(await facts_of(service)) == PARTS


@pytest.mark.parametrize(
    ("mark", "title"),
    [
        ({"part": 0, "headings": ["Refunds", "Deadlines"]}, "Refunds"),
        ({"part": "first", "headings": "none"}, None),
        ({"headings": [7]}, None),
        ({}, None),
    ],
)
async def test_a_title_is_the_first_heading_whatever_facts_say(
    service: Service, mark: dict[str, Any], title: str | None
) -> None:
    fact = {"id": "x", "text": "A fact.", "metadata": {"document": {"id": "d", **mark}}}
    assert (await service.http.put("/admin/kb/facts", json={"facts": [fact]})).status_code == 200
    (held,) = (await service.http.get(DOCUMENTS)).json()["documents"]
    assert (held["id"], held["title"]) == ("d", title)


async def test_listing_and_deleting(service: Service) -> None:
    await service.put(plain="A plain fact.")
    versions = {name: (await put(service, id=name))["version"] for name in ("b", "a", "c")}
    page = (await service.http.get(DOCUMENTS, params={"limit": 2})).json()
    assert [(one["id"], one["facts"], one["version"]) for one in page["documents"]] == [
        ("a", PARTS, versions["a"]),
        ("b", PARTS, versions["b"]),
    ]
    assert {one["title"] for one in page["documents"]} == {None}  # the first fact stands before all headings
    rest = (await service.http.get(DOCUMENTS, params={"cursor": page["next_cursor"]})).json()
    assert ([one["id"] for one in rest["documents"]], rest["next_cursor"]) == (["c"], None)
    stale = await service.http.delete(f"{DOCUMENTS}/b", params={"if_version": versions["a"]})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "version_conflict")
    gone = (await service.http.delete(f"{DOCUMENTS}/b", params={"if_version": versions["b"]})).json()
    assert gone["deleted"] == PARTS
    assert await facts_of(service, "b") == []
    missing = await service.http.delete(f"{DOCUMENTS}/b")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (await service.http.get("/admin/kb/facts/plain")).status_code == 200
    assert [one["id"] for one in (await service.http.get(DOCUMENTS)).json()["documents"]] == ["a", "c"]


async def test_conditions(service: Service) -> None:
    refused = await put(service, 409, if_version=3)
    assert refused["error"]["param"] == "documents[0].if_version"
    first = await put(service, if_version=0)
    await put(service, 409, if_version=0)
    await put(service, text="Something else.", if_version=first["version"])


async def test_what_changes_while_an_edit_is_made_is_planned_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(service)
    (first, *_) = await facts_of(service)
    commit, seen = service.store.commit, []

    def meddle(prepared: Any, require: Any = None) -> Any:
        if not seen:
            seen.append(commit(service.store.prepare([Delete(first["id"], "default")])))
        return commit(prepared, require)

    monkeypatch.setattr(service.store, "commit", meddle)
    await put(service, text=f"{HANDBOOK}\n# More\n\nAnother section is here.")
    assert seen
    facts = await facts_of(service)
    assert [fact["metadata"]["document"]["part"] for fact in facts] == list(range(PARTS + 1))


async def test_two_writers_of_one_document_leave_one_whole(service: Service) -> None:
    texts = [f"# {word}\n\nThe {word} is described here.\n\n# End\n\nAll of {word}." for word in ("red", "blue")]
    await asyncio.gather(*(put(service, text=text) for text in texts))
    facts = [fact["text"] for fact in await facts_of(service)]
    assert facts in ([f"{w}: The {w} is described here.", f"End: All of {w}."] for w in ("red", "blue"))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"id": "x" * (ID_CHARS + 1)}, "id"),
    ({"id": "a/b"}, "id"),
    ({"format": "pdf"}, "format"),
    ({"text": ""}, "text"),
    ({"text": "# Only\n\n## headings\n", "format": "markdown"}, "text"),
    ({"text": "NUL \0 here"}, "text"),
    ({"text": "a. " * 180_000}, "text"),
    ({"text": "<div>" * 2000, "format": "html"}, "text"),
    ({"text": "!? " * 170_000}, "text"),
    ({"metadata": {"document": 1}}, "metadata.document"),
    ({"metadata": {"x": "y" * 4096}}, "metadata"),
    ({"namespace": "a b"}, "namespace"),
    ({"expires_at": 1.0}, "expires_at"),
    ({"title": "x"}, "title"),
]


async def test_bad_documents_are_named_and_change_nothing(service: Service) -> None:
    for fields, param in BAD:
        assert (await put(service, 400, **{"format": "text", **fields}))["error"]["param"] == f"documents[0].{param}"
    assert service.version == 0


async def test_too_many_facts_are_refused(service: Service) -> None:
    text = "".join(f"# Part {n}\n\nText number {n}.\n\n" for n in range(513))
    refused = await put(service, 400, text=text)
    assert refused["error"]["param"] == "documents[0].text"
    assert "512" in refused["error"]["message"]


async def test_a_whole_edit_of_documents_can_be_replaced_and_no_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(service.context.documents), "most_facts", 4)

    def parts(word: str) -> str:
        return "".join(f"# {n}\n\nThe {word} number {n}.\n\n" for n in range(4))

    assert (await put(service, text=parts("boat")))["upserted"] == 4
    replaced = await put(service, text=parts("tram"))
    assert (replaced["upserted"], replaced["deleted"]) == (4, 4)
    await put(service, id="other", text=parts("gate"))
    both = [{"id": name, "text": f"Only this of {name}."} for name in ("handbook", "other")]
    refused = await service.http.put(DOCUMENTS, json={"documents": both})
    assert refused.json()["error"]["param"] == "documents"
    monkeypatch.setattr("server.service.documents.MOST_DELETED", 3)
    refused = await service.http.delete(f"{DOCUMENTS}/other")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id")


async def test_twice_the_same_document_is_refused(service: Service) -> None:
    twice = [{"id": "a", "text": "One."}, {"id": "a", "text": "Two."}]
    refused = await service.http.put(DOCUMENTS, json={"documents": twice})
    assert refused.json()["error"]["param"] == "documents[1].id"


LONG = " ".join(f"Sentence number {n} tells of the harbour." for n in range(200))


async def test_a_text_that_is_too_long_says_how_many_tokens_it_has(service: Service) -> None:
    for text in (LONG, LONG[:2000]):
        refused = await service.http.put("/admin/kb/facts", json={"facts": [{"id": "long", "text": text}]})
        assert refused.json()["error"]["param"] == "facts[0].text"
        assert " tokens; at most 256 are allowed" in refused.json()["error"]["message"]


async def test_split_makes_several_facts_of_a_long_text_and_one_of_a_short(service: Service) -> None:
    async def split(text: str, **fields: Any) -> Any:
        facts = [{"id": "long", "text": text, **fields}, {"id": "short", "text": "A short one."}]
        reply = await service.http.put("/admin/kb/facts", params={"split": "true"}, json={"facts": facts})
        return reply.json()

    await service.put(long="It was one fact before.")
    reply = await split(LONG, metadata={"a": 1})
    facts = await facts_of(service, "long")
    assert len(facts) == reply["documents"][0]["facts"] > 5
    assert " ".join(fact["text"] for fact in facts) == LONG
    assert (await service.http.get("/admin/kb/facts/long")).status_code == 404
    assert (await service.http.get("/admin/kb/facts/short")).json()["metadata"] == {}
    version = reply["version"]
    assert (await split("Now it is short.", if_version=version - 1))["error"]["param"] == "facts[0].if_version"
    assert (await split("Now it is short.", if_version=version))["deleted"] == len(facts)
    assert await facts_of(service, "long") == []
    assert (await service.http.get("/admin/kb/facts/long")).json()["text"] == "Now it is short."
