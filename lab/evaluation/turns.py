"""Is the right fact found for the last turn of a conversation, which may point back? Without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kb.encoder.protocol import Encoder
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.report import Findings
from lab.evaluation.statistics import bootstrap, mcnemar
from lab.questions.conversations import KINDS, Conversation
from server.service.follow_up import in_context

DEPTHS = (1, 3)


def measure(
    conversations: Sequence[Conversation], facts: Mapping[str, str], base: KnowledgeBase, encoder: Encoder
) -> list[Findings]:
    """Of each kind: the last turn as it stands, against it in the light of the turns before. `facts`: id -> text."""
    base.upsert(facts)
    ways = {
        "alone": [one.said[-1] for one in conversations],
        "in context": [in_context(one.said) for one in conversations],
    }
    found = {
        way: [
            base.found(text, vector, max(DEPTHS), "hybrid")
            for text, vector in zip(texts, encoder.embed(texts), strict=True)
        ]
        for way, texts in ways.items()
    }
    return [_of_kind(kind, conversations, facts, found) for kind in KINDS]


def _of_kind(
    kind: str, conversations: Sequence[Conversation], facts: Mapping[str, str], found: Mapping[str, list[list[str]]]
) -> Findings:
    findings = Findings(f"turns: the last one {kind}, {len(facts)} facts")
    places = [place for place, one in enumerate(conversations) if one.kind == kind]
    for depth in DEPTHS:
        right = {
            way: [facts[conversations[place].fact] in texts[place][:depth] for place in places]
            for way, texts in found.items()
        }
        findings.figures |= {f"recall@{depth}, {way}": bootstrap(values) for way, values in right.items()}
        findings.figures[f"p that they are alike @{depth} (McNemar)"] = mcnemar(right["alone"], right["in context"])
    return findings
