"""How many cores this process may use at this moment: its affinity mask, and the CPU quotas of its control groups.

`os.cpu_count` knows of neither. joblib's `cpu_count` reads a quota only at the root of the hierarchy: it finds a
container's, not one of a systemd unit or of any group further down.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def effective_cores(root: Path = ROOT) -> int:
    """At least 1. Of a quota that is no whole number, the started core counts: leaving it unused would be slower."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), quota(root))))


def quota(root: Path = ROOT) -> float:
    """Cores' worth of CPU time, the tightest of all groups that the process is in; infinite if none has a quota.

    `root` has `proc/self/cgroup` and `sys/fs/cgroup` below it.
    """
    return min(map(_quota_of, _groups(root)), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Directories of the process's groups and of those above, in version 2's hierarchy and in version 1's of `cpu`."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _upwards(mount, path)
        elif "cpu" in controllers.split(","):
            yield from _upwards(mount / "cpu", path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """From the group to the mount's root. Groups that are not visible here (a container's own path) have no files."""
    group = PurePosixPath(path.lstrip("/"))
    for part in (group, *group.parents):
        if ".." not in part.parts:
            yield mount / part


def _quota_of(group: Path) -> float:
    limit = _text(group / "cpu.max") or f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    match limit.split():
        case [time, period] if time not in ("max", "-1"):
            return int(time) / int(period)
    return math.inf


def _text(file: Path) -> str:
    """Empty if there is no such file, as outside Linux or for a group that has just been removed."""
    try:
        return file.read_text()
    except OSError:
        return ""
