"""deploy/make-keys.sh, interrupted wherever it may be: the next run leaves keys that fit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from server.http.keys import KeyRing, hash_key
from tests.deploy.expressions import ROOT

SCRIPT = ROOT / "deploy" / "make-keys.sh"
OWNERS = {"client": "client.keys", "metrics": "client.keys", "admin": "admin.keys"}
KALMAGROVE = """#!/bin/sh
secret=kg-$(od -An -N8 -tx1 /dev/urandom | tr -d ' ')
echo "key, shown this once: $secret" >&2
echo "$3:$(printf %s "$secret" | sha256sum | cut -d' ' -f1)"
"""
PYTHON = "#!/bin/sh\nod -An -N8 -tx1 /dev/urandom | tr -d ' '\n"
DYING = """#!/bin/sh
left=$(cat "$LEFT")
echo $((left - 1)) >"$LEFT"
if [ "$left" -le 0 ]; then kill -9 $PPID; exit 1; fi
PATH=$REST exec {name} "$@"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Stand in for `kalmagrove key create` and python3, which take longer to start than all the rest."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name, script in (("kalmagrove", KALMAGROVE), ("python3", PYTHON)):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    for name in ("keys", "secrets"):
        (tmp_path / name).mkdir()
    return directory


def _run(tools: Path, **more: str) -> int:
    home = tools.parent
    own = {"KEYS_DIRECTORY": str(home / "keys"), "SECRETS_DIRECTORY": str(home / "secrets")}
    path = os.environ["PATH"]
    env = {**own, "PATH": f"{tools}:{path}", "REST": f"{tools}:{path}", **more}
    return subprocess.run(["sh", SCRIPT], env=env, capture_output=True).returncode


def _check(home: Path) -> None:
    """Every key opens what it is for, nothing else does, and nothing lies about."""
    names = {path.name for path in (home / "secrets").iterdir()}
    assert names == {*(f"{name}.key" for name in OWNERS), "grafana.password", "postgres.password"}
    assert {path.name for path in (home / "keys").iterdir()} == {"client.keys", "admin.keys", "pgpass"}
    for name, file in OWNERS.items():
        found = KeyRing.read(home / "keys" / file).find((home / "secrets" / f"{name}.key").read_text().strip())
        assert found is not None
        assert found.name == name
    assert len(KeyRing.read(home / "keys" / "client.keys").keys) == 2
    assert (home / "keys" / "pgpass").stat().st_mode & 0o777 == 0o600


def _content(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for name in ("keys", "secrets") for path in (home / name).iterdir()}


def test_keys_are_made_once(tools: Path) -> None:
    assert _run(tools) == 0
    _check(tools.parent)
    made = _content(tools.parent)
    assert _run(tools) == 0
    assert _content(tools.parent) == made


@pytest.mark.slow
def test_killed_before_any_of_its_steps(tools: Path) -> None:
    dying = tools.parent / "dying"
    dying.mkdir()
    for name in ("kalmagrove", "mv", "rm", "sed", "grep"):
        (dying / name).write_text(DYING.format(name=name))
        (dying / name).chmod(0o755)
    left, steps = tools.parent / "left", 0
    while True:
        for name in ("keys", "secrets"):
            for path in (tools.parent / name).iterdir():
                path.unlink()
        left.write_text(str(steps))
        ended = _run(tools, PATH=f"{dying}:{os.environ['PATH']}", LEFT=str(left)) == 0
        assert _run(tools) == 0
        _check(tools.parent)
        if ended:
            break
        steps += 1
    assert steps > 12


@pytest.mark.parametrize("lost", ["keys", "secrets"])
def test_a_volume_that_was_lost_is_made_again(tools: Path, lost: str) -> None:
    assert _run(tools) == 0
    for path in (tools.parent / lost).iterdir():
        path.unlink()
    assert _run(tools) == 0
    _check(tools.parent)


def test_a_line_that_was_cut_off_is_replaced(tools: Path) -> None:
    """As versions before this one could leave it; their names stand first in it."""
    (tools.parent / "keys" / "client.keys").write_text("client:0123")
    assert _run(tools) == 0
    _check(tools.parent)


def test_hash_of_the_stand_in_is_the_servers() -> None:
    done = subprocess.run(["sh", "-c", KALMAGROVE, "kalmagrove", "key", "create", "a"], capture_output=True, text=True)
    secret = done.stderr.split()[-1]
    assert done.stdout == f"a:{hash_key(secret).hex()}\n"
