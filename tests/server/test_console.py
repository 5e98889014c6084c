"""/console: what is served, under which policy, to whom; and that an installed package has all of it."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.console.files import PAGE, console_files
from server.http.keys import Keys, hash_key
from tests.server.support import Service, build_services, error, running

ROOT = Path(__file__).resolve().parents[2]


async def test_page_and_files_come_under_a_strict_policy(service: Service) -> None:
    for path, kind in (("", "text/html"), ("/app/main.js", "text/javascript"), ("/style/base.css", "text/css")):
        response = await service.http.get(f"/console{path}")
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{kind}; charset=utf-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        rules = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
        assert {rules[kind] for kind in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        assert rules["require-trusted-types-for"] == "'script'"


async def test_files_are_asked_for_anew_and_sent_once(service: Service) -> None:
    first = await service.http.get("/console/app/main.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = await service.http.get("/console/app/main.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert "content-security-policy" in again.headers
    changed = await service.http.get("/console/app/main.js", headers={"If-None-Match": '"other"'})
    assert changed.content == first.content
    assert (await service.http.get("/console")).headers["etag"] != etag
    head = await service.http.head("/console")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["none.js", "app", "app/", "../files.py", "%2e%2e/files.py", "app/../../files.py", "vendor/LICENSE.htm"]
)
async def test_nothing_else_is_served(service: Service, path: str) -> None:
    response = await service.http.get(f"/console/{path}")
    assert (response.status_code, error(response)["code"]) == (404, "not_found")


async def test_it_can_be_switched_off(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    async with running(build_services(tmp_path, tiny, encoder), console=False) as service:
        for path in ("/console", "/console/app/main.js"):
            assert (await service.http.get(path)).status_code == 404


async def test_with_keys_the_page_is_open_and_nothing_else(
    tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key('kg-ann').hex()}\n")
    services = build_services(tmp_path, tiny, encoder, Keys.read(file, file))
    async with running(services, base_url="http://example.org") as service:
        assert (await service.http.get("/console")).status_code == 200
        assert (await service.http.get("/console/app/main.js")).status_code == 200
        for path in ("/consoles", "/v1/models", "/admin/kb/version", "//console", "/CONSOLE"):
            assert (await service.http.get(path)).status_code == 401, path


def test_the_page_uses_every_file_and_each_is_there() -> None:
    """Found as a browser finds them: what the page links, and what modules import. None of it is on another host."""
    files = {path: file.content.decode() for path, file in console_files().items()}
    seen: set[str] = set()
    todo = [PAGE]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if path == PAGE:  # its links are relative to /, the modules' to themselves
            found = re.findall(r'(?:src|href)="console/([^"]+)"', files[path])
            assert len(found) == len(re.findall(r"(?:src|href)=", files[path]))
        else:
            names = re.findall(r'^import .*?"([^"]+)";$', files[path], re.MULTILINE)
            found = [posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) for name in names]
        assert set(found) <= files.keys(), path
        todo += found
    assert seen == files.keys()


def test_a_package_has_all_of_it(tmp_path: Path) -> None:
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run([sys.executable, "setup.py", "-q", *command], cwd=ROOT, check=True, capture_output=True)
    source, built = (base / "server" / "console" / "static" for base in (ROOT, tmp_path / "built"))
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert Path("vendor/LICENSE.htm") in wanted
    assert {path.relative_to(built) for path in built.rglob("*") if path.is_file()} == wanted
