"""Dockerfile and docker-compose.yml: linted, hardened, and true to the files and settings they name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from server.settings import Settings
from tests.deploy.expressions import ROOT, RULES

DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
DCLINT = "dclint@3.1.0"


def _check(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def _services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(COMPOSE.read_text("utf-8"))["services"])


def _settings(text: str) -> set[str]:
    return set(re.findall(r"\bKALMAGROVE_([A-Z_]+)(?:[=:] |=)", text))


def test_hadolint() -> None:
    _check(Path(sys.executable).with_name("hadolint"), DOCKERFILE)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_reads_it() -> None:
    _check("docker-compose", "--file", COMPOSE, "config", "--quiet")
    _check("docker-compose", "--file", COMPOSE, "--profile", "replicas", "config", "--quiet")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="npx is not installed")
def test_dclint() -> None:
    """Errors only; a service that is built is also given the name under which the others use its image."""
    _check("npx", "--yes", DCLINT, COMPOSE, "--quiet", "--disable-rule", "no-build-and-image")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = set()
    for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE):
        copied |= set(words.split()[:-1])
    assert copied == let_in
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_images_from_elsewhere_are_pinned_by_digest() -> None:
    """As tag and digest: the one for people, the other for the registry."""
    dockerfile = DOCKERFILE.read_text("utf-8")
    stages = set(re.findall(r"^FROM .* AS (\S+)$", dockerfile, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - stages
    assert bases == {"${BASE}"}
    foreign = re.findall(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    foreign += [service["image"] for service in _services().values() if "build" not in service]
    assert len(foreign) == 5
    for image in foreign:
        assert re.fullmatch(r"[a-z/]+:v?[0-9][a-z0-9.-]+@sha256:[0-9a-f]{64}", image), image


def test_settings_named_exist() -> None:
    named = _settings(DOCKERFILE.read_text("utf-8")) | _settings(COMPOSE.read_text("utf-8"))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert {"HOST", "DATA_DIR", "ADMIN_KEYS_FILE"} <= named


def test_services_may_do_little() -> None:
    for name, service in _services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":[^:]+$", service["image"]), name
    assert re.search(r"^USER 10001:10001$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)


def test_files_mounted_exist() -> None:
    mounts = [volume.split(":") for service in _services().values() for volume in service["volumes"]]
    local = [source for source, *_ in mounts if source.startswith(".")]
    assert len(local) == 5
    assert [source for source in local if not (ROOT / source).exists()] == []


def test_paths_agree_between_the_files() -> None:
    """What one file says is where another says it is."""
    services = _services()
    (job,) = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert f"127.0.0.1:{port}:{port}" in services[host]["ports"]
    assert job["authorization"]["credentials_file"] == "/secrets/metrics.key"
    boards = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/kalmagrove.yml").read_text("utf-8"))
    directory = boards["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{directory}:ro" in services["grafana"]["volumes"]
    assert re.search(r"install -d .* /keys /secrets", DOCKERFILE.read_text("utf-8"))
    for name in ("prometheus", "grafana", "postgres"):
        assert "secrets:/secrets:ro" in services[name]["volumes"]
        assert services[name]["group_add"] == ["10001"]


def test_replicas_share_one_log_and_nothing_else() -> None:
    services = _services()
    replicas = {name: one for name, one in services.items() if name.startswith("replica-")}
    assert len(replicas) == 3
    (url,) = {one["environment"]["KALMAGROVE_KNOWLEDGE_URL"] for one in replicas.values()}
    database = make_url(url)
    assert database.host in services
    assert database.username == services[database.host]["environment"]["POSTGRES_USER"]
    assert database.database == services[database.host]["environment"]["POSTGRES_DB"]
    made = (ROOT / "deploy" / "make-keys.sh").read_text("utf-8")
    assert f"'{database.host}:5432:{database.database}:{database.username}:%s" in made
    assert database.query["passfile"] == "/keys/pgpass"
    assert ":-/keys}" in made
    assert '"$keys/pgpass"' in made
    volumes = [volume for one in replicas.values() for volume in one["volumes"] if not volume.endswith(":ro")]
    assert len(set(volumes)) == 3
    balanced = (ROOT / "deploy" / "proxy" / "replicas.conf").read_text("utf-8")
    for upstream in re.findall(r"upstream \S+ \{([^}]*)\}", balanced):
        assert set(re.findall(r"server (\S+):8000", upstream)) == replicas.keys()
    (job,) = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    for name, service in services.items():
        given = service.get("networks", {}).get("default", {}).get("aliases", [])
        assert (found["names"] == given) == (name in replicas)
    for name in (*replicas, database.host, "balancer"):
        assert services[name]["profiles"] == ["replicas"]
