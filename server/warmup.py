"""What is done once between loading and listening: the demo's knowledge, and one round through everything."""

from __future__ import annotations

import importlib.resources

from rich.console import Console
from rich.progress import Progress

from kb.ndjson import read_batches
from server.engine.protocol import FactTokens, GenerationRequest, MountedFact, SamplingParams
from server.services import Context

BATCH_FACTS = 32
WARM_UP_TEXT = "Nothing."


async def import_demo(context: Context, console: Console) -> None:
    """Fill a store that never held anything, if the settings want it."""
    store = context.services.store
    if not context.settings.demo or store.snapshot.version > 0:
        return
    lines = importlib.resources.files("server").joinpath("demo", "facts.ndjson").read_bytes()
    batches = list(read_batches([lines], limits=store.limits))
    changes = [change for batch in batches for change in batch.changes]
    with Progress(console=console, transient=True) as bar:
        for start in bar.track(range(0, len(changes), BATCH_FACTS), description="Encoding the demo's facts"):
            await context.knowledge.apply(changes[start : start + BATCH_FACTS])


async def warm_up(context: Context) -> None:
    """So that the first request is as fast as the others: embed, encode, mount and generate once."""
    services = context.services
    await context.knowledge.embed(1, lambda: services.encoder.embed([WARM_UP_TEXT]))
    key = services.prompt.fact_key(services.engine.info.model_fingerprint, WARM_UP_TEXT)
    fact = FactTokens(key, services.prompt.fact(WARM_UP_TEXT))
    await services.engine.encode([fact])
    request = GenerationRequest(
        id="warm-up",
        prompt=tuple(services.prompt.completion(WARM_UP_TEXT, with_knowledge=True)),
        facts=(MountedFact(fact, 1.0),),
        sampling=SamplingParams(max_tokens=2, temperature=0, ignore_eos=True),
    )
    async for _ in services.engine.generate(request):
        pass
    services.engine.forget([key])
