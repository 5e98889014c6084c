"""What is done once between loading and listening: the demo's knowledge, and one round through everything."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from rich.console import Console
from rich.progress import Progress

from kan.knowledge.fit import Fit
from kb.errors import VersionConflict
from server.demo.facts import demo_facts
from server.engine.protocol import GenerationRequest, MountedFact, SamplingParams
from server.services import Context

BATCH_FACTS = 32
WARM_UP_TEXT = "Nothing."


async def import_demo(context: Context, console: Console) -> None:
    """Fill a store that never held anything, if the settings want it, and no other server does so."""
    store = context.services.store
    if not context.settings.demo or store.snapshot.version > 0:
        return
    changes = [replace(fact, if_version=0) for fact in demo_facts(store.limits)]
    with Progress(console=console, transient=True) as bar, suppress(VersionConflict):
        for start in bar.track(range(0, len(changes), BATCH_FACTS), description="Reading the demo's facts"):
            await context.edits.apply("demo", changes[start : start + BATCH_FACTS])


async def warm_up(context: Context) -> None:
    """So that the first request is as fast as the others: embed, encode, mount and generate once. Afterwards only the
    pages of facts that are held are left."""
    services = context.services
    await context.embedding.of_questions("", [WARM_UP_TEXT])
    fact = context.pages.tokens(WARM_UP_TEXT)
    await services.engine.encode([fact])
    request = GenerationRequest(
        id="warm-up",
        prompt=tuple(services.prompt.completion(WARM_UP_TEXT, with_knowledge=True)),
        facts=(MountedFact(fact, Fit(1.0)),),
        sampling=SamplingParams(max_tokens=2, temperature=0, ignore_eos=True),
    )
    async for _ in services.engine.generate(request):
        pass
    services.engine.forget([fact.key])  # reconciling leaves everything while another server shares the page files
    await asyncio.to_thread(context.pages.reconcile)
    await asyncio.to_thread(context.page_making.want_missing)
