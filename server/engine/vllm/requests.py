"""A request in vLLM's words, and what comes back in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kan.knowledge.phi import Phi
from server.engine.bias import bias_of
from server.engine.protocol import FactTokens, GenerationRequest, MountedFact, SamplingParams, TokenLogprob
from server.engine.vllm.plugin.transfer import Mount, Record, Segment


@dataclass(frozen=True, slots=True)
class Preamble:
    """What comes before the facts, in every request that mounts some."""

    key: str
    tokens: tuple[int, ...]

    @property
    def segment(self) -> Segment:
        return Segment(self.key, len(self.tokens))

    @property
    def as_fact(self) -> FactTokens:
        """To be recorded like one."""
        return FactTokens(self.key, self.tokens)


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """Arguments of AsyncLLM.generate."""

    prompt: Any
    params: Any


def generation(
    request: GenerationRequest, preamble: Preamble, phi: Phi | None, end_tokens: Sequence[int], salt: str
) -> VllmRequest:
    """Preamble, facts and context in one prompt, all but the context to be loaded. `salt`: of encoder and φ."""
    mount = _mount(request.facts, preamble, phi) if request.facts else None
    facts = [token for mounted in request.facts for token in mounted.fact.tokens]
    tokens = [*(preamble.tokens if mount else ()), *facts, *request.prompt]
    prompt: dict[str, Any] = {"prompt_token_ids": tokens}
    if mount is not None:
        prompt["cache_salt"] = mount.salt([mounted.version for mounted in request.facts], salt)
    return VllmRequest(prompt, _sampling(request.sampling, end_tokens, mount))


def recording(fact: FactTokens, preamble: Preamble | None, salt: str) -> VllmRequest:
    """Compute the fact behind the preamble (None: the fact is the preamble) and write its K and V.

    The salt keeps vLLM from finding any of it in its prefix cache: what is not computed cannot be recorded.
    """
    from vllm import SamplingParams as VllmSamplingParams

    before = preamble.tokens if preamble else ()
    record = Record(fact.key, len(before))
    params = VllmSamplingParams(
        max_tokens=1, temperature=0.0, detokenize=False, extra_args={"kv_transfer_params": record.to_params()}
    )
    return VllmRequest({"prompt_token_ids": [*before, *fact.tokens], "cache_salt": salt}, params)


def token_logprob(token: int, found: Mapping[int, Any], wanted: int) -> TokenLogprob:
    """vLLM tells the chosen token beside the best ones, in no order."""
    best = sorted(found.items(), key=lambda entry: (-entry[1].logprob, entry[0]))[:wanted]
    return TokenLogprob(token, found[token].logprob, tuple((one, entry.logprob) for one, entry in best))


def prompt_logprobs(
    prompt: Sequence[int], found: Sequence[Mapping[int, Any] | None], wanted: int
) -> list[TokenLogprob | None]:
    """One per prompt token; the first has none."""
    return [
        None if entry is None else token_logprob(token, entry, wanted)
        for token, entry in zip(prompt, found, strict=True)
    ]


def _mount(facts: Sequence[MountedFact], preamble: Preamble, phi: Phi | None) -> Mount:
    segments = tuple(Segment(mounted.fact.key, len(mounted.fact.tokens)) for mounted in facts)
    bias = bias_of(phi, facts)
    return Mount(preamble.segment, segments, None if bias is None else bias.float().contiguous().numpy().tobytes())


def _sampling(wanted: SamplingParams, end_tokens: Sequence[int], mount: Mount | None) -> Any:
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    from server.engine.vllm.plugin.repetition import KNOWLEDGE, PENALTY

    extra: dict[str, Any] = {}
    penalty = wanted.repetition_penalty
    if mount is not None:
        extra["kv_transfer_params"] = mount.to_params()
        if penalty != 1.0:
            extra |= {PENALTY: penalty, KNOWLEDGE: mount.tokens}
            penalty = 1.0
    return VllmSamplingParams(
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        min_p=wanted.min_p,
        seed=None if wanted.seed is None else wanted.seed % 2**63,
        repetition_penalty=penalty,
        presence_penalty=wanted.presence_penalty,
        frequency_penalty=wanted.frequency_penalty,
        logit_bias=dict(wanted.logit_bias) or None,
        stop_token_ids=[] if wanted.ignore_eos and not wanted.grammar else list(end_tokens),
        structured_outputs=StructuredOutputsParams(grammar=wanted.grammar.source) if wanted.grammar else None,
        ignore_eos=True,  # ends are told by stop_token_ids: vLLM has no tokenizer here
        logprobs=wanted.logprobs,
        prompt_logprobs=wanted.prompt_logprobs,
        detokenize=False,  # text and stop strings are made here, by the same code as the embedded engine's
        output_kind=RequestOutputKind.DELTA,
        extra_args=extra or None,
    )
