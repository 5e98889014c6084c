"""How many cores the process may use: its mask, and quotas in a made-up tree of control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpu.cores import effective_cores, quota
from cpu.threads import RECHECK_SECONDS, AllCores, wait_briefly


@pytest.fixture
def mask() -> Iterator[set[int]]:
    """The calling thread's own; it is put back."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield before
    os.sched_setaffinity(0, before)
    torch.set_num_threads(threads)


def tree(root: Path, membership: str, **files: str) -> Path:
    """`files`: by path below sys/fs/cgroup, with `__` for a slash and `cpu_max` for cpu.max."""
    _write(root / "proc/self/cgroup", membership)
    for name, text in files.items():
        _write(root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu."), text)
    return root


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n" if text else "")


def test_version_2_takes_the_tightest_group_on_the_way_up(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/a/b",
        a__b__cpu_max="300000 100000",
        a__cpu_max="150000 100000",
        cpu_max="max 100000",
        c__cpu_max="1000 100000",
    )
    assert quota(root) == 1.5


def test_version_1_takes_the_tightest_group_on_the_way_up(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "5:memory:/m\n2:cpu,cpuacct:/a",
        cpu__a__cpu_cfs_quota_us="50000",
        cpu__a__cpu_cfs_period_us="100000",
        cpu__cpu_cfs_quota_us="-1",
        cpu__cpu_cfs_period_us="100000",
    )
    assert quota(root) == 0.5
    assert effective_cores(root) == 1


@pytest.mark.parametrize("membership", ["0::/docker/1f", "0::/../other"])
def test_a_container_finds_its_quota_where_its_own_path_is_not_visible(tmp_path: Path, membership: str) -> None:
    assert quota(tree(tmp_path, membership, cpu_max="200000 100000")) == 2


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path) == math.inf
    assert effective_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_process_in_no_group_has_no_quota(tmp_path: Path) -> None:
    _write(tmp_path / "proc/self/cgroup", "")
    assert quota(tmp_path) == math.inf


def test_the_real_tree_is_read() -> None:
    assert quota() > 0
    assert 1 <= effective_cores() <= len(os.sched_getaffinity(0))


@given(limit=st.integers(1000, 10**8), period=st.integers(1000, 10**6))
def test_never_more_than_the_mask_nor_none(tmp_path_factory: pytest.TempPathFactory, limit: int, period: int) -> None:
    root = tree(tmp_path_factory.mktemp("groups"), "0::/", cpu_max=f"{limit} {period}")
    assert effective_cores(root) == min(len(os.sched_getaffinity(0)), math.ceil(limit / period))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_follow_the_mask(mask: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("cpu.threads.time.monotonic", lambda: now)
    cores = AllCores()
    cores.follow()
    all_threads = torch.get_num_threads()
    os.sched_setaffinity(0, {min(mask)})
    cores.follow()
    assert torch.get_num_threads() == all_threads, "looked again too soon"
    now += RECHECK_SECONDS
    cores.follow()
    assert torch.get_num_threads() == 1
    os.sched_setaffinity(0, mask)
    now += RECHECK_SECONDS
    cores.follow()
    assert torch.get_num_threads() == all_threads


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_environment_says_of_waiting_goes_first(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpu.threads.os.environ", chosen.copy())
    wait_briefly()
    assert dict(os.environ) == chosen
