"""Real Prometheus (Debian package), configured by `deploy/prometheus`, scraping a server of the test's own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtests.serving import free_port
from tests.deploy.expressions import RULES

QUICK = "1s"
"""Scrapes and evaluations: a test is over sooner than a minute."""


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str
    http: httpx.Client

    def ask(self, promql: str) -> list[float]:
        """The values an expression has now."""
        answer = self.http.get("/api/v1/query", params={"query": promql})
        assert answer.status_code == 200, (promql, answer.text)
        return [float(one["value"][1]) for one in answer.json()["data"]["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """All rules, as they are evaluated."""
        groups = self.http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def scraping(target: str, key: Path, directory: Path) -> Iterator[Prometheus]:
    """Scrape `target` (host:port) with the key of a file until the block ends."""
    port = free_port()
    command = [
        str(shutil.which("prometheus")),
        f"--config.file={_configuration(target, key, directory)}",
        f"--storage.tsdb.path={directory / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:
            _wait(http, process, directory / "prometheus.log")
            yield Prometheus(str(http.base_url), http)
    finally:
        process.terminate()
        process.wait(20)


def _configuration(target: str, key: Path, directory: Path) -> Path:
    """The shipped one, but for where things are and how often it looks."""
    configuration = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
    configuration["global"] = {"scrape_interval": QUICK, "evaluation_interval": QUICK}
    configuration["rule_files"] = [str(RULES / file) for file in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    job["authorization"]["credentials_file"] = str(key)
    job["static_configs"] = [{"targets": [target]}]
    del job["dns_sd_configs"]  # nobody here knows the names of docker-compose.yml
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration), "utf-8")
    return path


def _wait(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if http.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
