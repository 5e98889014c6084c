"""What the vLLM engine tells its connector: positions that keep every distance, and salts that keep prefixes apart."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from server.engine.vllm.plugin.transfer import Mount, Record, Segment, from_params, stage_directory

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def mount(preamble: int, facts: list[int], phi: bytes | None = None) -> Mount:
    return Mount(Segment("p", preamble), tuple(Segment(f"f{i}", n) for i, n in enumerate(facts)), phi)


@given(preamble=st.integers(1, 30), facts=LENGTHS)
def test_distances_are_those_of_the_embedded_engine(preamble: int, facts: list[int]) -> None:
    """RoPE sees distances to the context only: they must be as if preamble, facts side by side, context began at 0."""
    mounted = mount(preamble, facts)
    context = mounted.tokens  # where vLLM puts it
    own_context = preamble + max(facts)
    own = [*range(preamble), *(preamble + offset for length in facts for offset in range(length))]
    assert [context - place for place in mounted.positions] == [own_context - place for place in own]
    assert min(mounted.positions) >= 0
    assert len(mounted.positions) == mounted.tokens


@given(preamble=st.integers(1, 30), facts=LENGTHS)
def test_facts_share_their_first_position(preamble: int, facts: list[int]) -> None:
    mounted = mount(preamble, facts)
    starts = [preamble, *accumulate(facts, initial=preamble)][1:-1]
    assert len({mounted.positions[start] for start in starts}) == 1


@given(facts=LENGTHS, phi=st.none() | st.binary(max_size=40))
def test_parameters_come_back(facts: list[int], phi: bytes | None) -> None:
    mounted = mount(7, facts, phi)
    assert from_params(mounted.to_params()) == mounted
    assert from_params(Record("k", 3).to_params()) == Record("k", 3)
    assert from_params(None) is from_params({"other": 1}) is None


def test_salts_differ_wherever_the_cached_blocks_would() -> None:
    plain = mount(7, [3, 4], b"phi")
    turned = Mount(plain.preamble, plain.facts[::-1], b"phi")
    salts = {
        plain.salt([1, 2], "encoder"),
        plain.salt([1, 3], "encoder"),
        plain.salt([1, 2], "another encoder"),
        mount(7, [3, 4], b"another").salt([1, 2], "encoder"),
        mount(7, [3, 4], None).salt([1, 2], "encoder"),
        mount(7, [3], b"phi").salt([1], "encoder"),
        turned.salt([2, 1], "encoder"),
    }
    assert len(salts) == 7
    assert plain.salt([1, 2], "encoder") in salts


def test_the_only_stage_uses_the_directory_itself(tmp_path: Path) -> None:
    root = tmp_path
    assert stage_directory(root, 0, 1) == root
    assert len({stage_directory(root, stage, 3) for stage in range(3)} | {root}) == 4
