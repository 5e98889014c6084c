"""Page content on disk: what is read is what was written, or nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kan.knowledge.pages import (
    PageContent,
    PageContentError,
    SmallContent,
    is_intact,
    page_path,
    read_pages,
    read_small_pages,
    stored_bytes,
    write_pages,
)
from kan.quantization import Bits

SHAPE = (3, 5, 2, 8)


@pytest.fixture(params=[torch.bfloat16, torch.float32, torch.float64], ids=str)
def content(request: pytest.FixtureRequest) -> PageContent:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(SHAPE, generator=generator).to(request.param) for _ in range(2))
    return PageContent(keys, values)


def test_round_trip(content: PageContent, tmp_path: Path) -> None:
    path = page_path(tmp_path, "k")
    write_pages(path, content)
    found = read_pages(path, SHAPE, content.keys.dtype)
    assert torch.equal(found.keys, content.keys)
    assert torch.equal(found.values, content.values)
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.pages"], "something was left beside it"


@pytest.mark.parametrize("bits", [4, 8])
def test_round_trip_in_few_bits(content: PageContent, tmp_path: Path, bits: Bits) -> None:
    path = page_path(tmp_path, "k")
    small = SmallContent.of(content, bits)
    write_pages(path, small)
    found = read_small_pages(path, SHAPE, bits)
    assert found.tensors().keys() == small.tensors().keys()
    assert all(torch.equal(found.tensors()[name], tensor) for name, tensor in small.tensors().items())
    assert is_intact(path)
    dtype = content.keys.dtype
    again = found.content(dtype)
    assert again.keys.dtype == again.values.dtype == dtype
    # 5 tokens are one group of keys, and 8 channels one of values.
    for one, other, scales in (
        (again.keys, content.keys, small.key_steps[0]),
        (again.values, content.values, small.value_steps[0]),
    ):
        # half a scale, and the rounding of the result to the type
        bound = scales.double() / 2 + torch.finfo(dtype).eps * (other.double().abs() + scales.double()) + 1e-9
        assert ((one.double() - other.double()).abs() <= bound).all()


def test_how_much_few_bits_take() -> None:
    """A sentence of 20 tokens in SmolLM2-135M: 23 KB a token in bfloat16, 12.3 and 7.6 KB so."""
    whole = PageContent(*torch.ones(2, 30, 20, 3, 64, dtype=torch.bfloat16))
    assert stored_bytes(whole) == 20 * 23_040
    assert stored_bytes(SmallContent.of(whole, 8)) == 20 * (11_520 + 180 + 576)
    assert stored_bytes(SmallContent.of(whole, 4)) == 20 * (5_760 + 720 + 2 * 1152)


def test_files_of_8_bits_are_as_they_were(content: PageContent) -> None:
    """Nobody's pages are made again because there are others now."""
    shapes = {name: tuple(one.shape) for name, one in SmallContent.of(content, 8).tensors().items()}
    scales = {"key_scales": (3, 1, 2, 8), "value_scales": (3, 5, 2, 1)}
    assert shapes == {"keys": SHAPE, "values": SHAPE, **scales}


def test_the_other_forms_are_refused(tmp_path: Path) -> None:
    whole = PageContent(torch.ones(SHAPE), torch.ones(SHAPE))
    paths = {bits: page_path(tmp_path, str(bits)) for bits in (4, 8, 16)}
    write_pages(paths[16], whole)
    for bits in (4, 8):
        write_pages(paths[bits], SmallContent.of(whole, bits))
    for written, read, named in ((16, 8, "float32"), (16, 4, "float32"), (4, 8, "uint8"), (8, 4, "int8")):
        with pytest.raises(PageContentError, match=named):
            read_small_pages(paths[written], SHAPE, read)
    for written, named in ((8, "int8"), (4, "uint8")):
        with pytest.raises(PageContentError, match=named):
            read_pages(paths[written], SHAPE, torch.float32)
        with pytest.raises(PageContentError, match=r"\(3, 6, 2, [48]\)"):
            read_small_pages(paths[written], (3, 6, 2, 8), written)


@pytest.mark.parametrize("metadata", [{}, {"crc32": "0"}, {"crc32": "0", "format": "3"}])
def test_files_of_another_version_are_refused(metadata: dict[str, str], tmp_path: Path) -> None:
    """As they were written before there were versions, and as they may be written one day."""
    path = page_path(tmp_path, "k")
    save_file({"keys": torch.ones(SHAPE), "values": torch.ones(SHAPE)}, path, metadata)
    with pytest.raises(PageContentError, match=f"format {metadata.get('format', '1')}, not 2"):
        read_pages(path, SHAPE, torch.float32)
    assert not is_intact(path)


def test_parts_of_larger_tensors(tmp_path: Path) -> None:
    """Slices are written by value, not with their neighbours."""
    whole = torch.arange(2 * 7 * 2 * 4, dtype=torch.float32).view(2, 7, 2, 4)
    write_pages(page_path(tmp_path, "k"), PageContent(whole[:, 2:5], whole[:, 3:6]))
    found = read_pages(page_path(tmp_path, "k"), (2, 3, 2, 4), torch.float32)
    assert torch.equal(found.keys, whole[:, 2:5])
    assert torch.equal(found.values, whole[:, 3:6])


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(content: PageContent, tmp_path: Path) -> None:
    path = page_path(tmp_path, "k")
    write_pages(path, content)
    whole = path.read_bytes()
    chooser = random.Random(0)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << chooser.randrange(8)
        path.write_bytes(data)
        try:
            found = read_pages(path, SHAPE, content.keys.dtype)
        except PageContentError:
            continue
        assert torch.equal(found.keys, content.keys), place
        assert torch.equal(found.values, content.values), place


def test_a_flipped_bit_in_content_of_4_bits(content: PageContent, tmp_path: Path) -> None:
    path = page_path(tmp_path, "k")
    expected = SmallContent.of(content, 4)
    write_pages(path, expected)
    whole = path.read_bytes()
    chooser = random.Random(0)
    for place in chooser.sample(range(len(whole)), 300):
        data = bytearray(whole)
        data[place] ^= 1 << chooser.randrange(8)
        path.write_bytes(data)
        try:
            found = read_small_pages(path, SHAPE, 4)
        except PageContentError:
            continue
        assert all(torch.equal(found.tensors()[name], one) for name, one in expected.tensors().items()), place


def test_every_truncation_is_noticed(content: PageContent, tmp_path: Path) -> None:
    path = page_path(tmp_path, "k")
    write_pages(path, content)
    whole = path.read_bytes()
    assert is_intact(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not is_intact(path)
        with pytest.raises(PageContentError):
            read_pages(path, SHAPE, content.keys.dtype)


def test_what_is_not_wanted_is_refused(tmp_path: Path) -> None:
    path = page_path(tmp_path, "k")
    write_pages(path, PageContent(torch.zeros(SHAPE), torch.zeros(SHAPE)))
    with pytest.raises(PageContentError, match="float32"):
        read_pages(path, SHAPE, torch.bfloat16)
    with pytest.raises(PageContentError, match=r"\(3, 6, 2, 8\)"):
        read_pages(path, (3, 6, 2, 8), torch.float32)
    with pytest.raises(FileNotFoundError):
        read_pages(page_path(tmp_path, "other"), SHAPE, torch.float32)
    assert not is_intact(page_path(tmp_path, "other"))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = page_path(tmp_path, "k")
    write_pages(path, PageContent(torch.zeros(SHAPE), torch.zeros(SHAPE)))

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_pages(path, PageContent(torch.ones(SHAPE), torch.ones(SHAPE)))
    assert torch.equal(read_pages(path, SHAPE, torch.float32).keys, torch.zeros(SHAPE))
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.pages"]
