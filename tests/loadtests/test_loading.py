"""Facts are loaded when their pages are made, or when no more are: what is measured is a server at rest."""

from __future__ import annotations

import pytest

from loadtests import client
from loadtests.client import FactRecord, Target, connect, load_facts
from tests.loadtests.stub_server import Stub, running

FACTS = [FactRecord(str(i), f"Fact {i}.") for i in range(3)]


@pytest.mark.parametrize(("rise", "reached"), [(0.3, 1.0), (0.0, 0.0)], ids=["they come", "there is no room"])
async def test_pages_are_waited_for(monkeypatch: pytest.MonkeyPatch, rise: float, reached: float) -> None:
    monkeypatch.setattr(client, "LOOK_S", 0.001)
    if not rise:
        monkeypatch.setattr(client, "STANDSTILL_S", 0.0)
    stub = Stub(pages_rise=rise)
    with running(stub) as url:
        async with connect(Target(url)) as asking:
            assert await load_facts(asking, FACTS, "ns", 0.0) == 1
    assert stub.pages_made == reached
