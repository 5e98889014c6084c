"""deploy/proxy as Debian's nginx runs it, in front of a real server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from loadtests.serving import free_port, free_ports
from tests.server.live import Live, listening
from tests.server.support import FACTS, build_services, chat_body

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "proxy"
TOKENS = 600
DEAD = "127.0.0.1:9"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="needs Debian's package nginx"),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    with listening(build_services(tmp_path_factory.mktemp("live"), tiny, encoder)) as live:
        facts = [{"id": id, "text": text} for id, text in FACTS.items()]
        assert httpx.put(f"{live.url}/admin/kb/facts", json={"facts": facts}).status_code == 200
        yield live
        live.until_idle()


@pytest.fixture
def proxy(live: Live, tmp_path: Path) -> Iterator[httpx.Client]:
    with nginx(live.url, tmp_path) as client:
        yield client


@contextmanager
def nginx(upstream: str, directory: Path) -> Iterator[httpx.Client]:
    """The shipped configuration, on a free port and with its files in the directory."""
    port = free_port()
    changes = {"127.0.0.1:8000": upstream.removeprefix("http://"), "listen 8080": f"listen 127.0.0.1:{port}"}
    with _running("kalmagrove.conf", changes, port, directory) as client:
        yield client


@contextmanager
def _running(name: str, changes: dict[str, str], port: int, directory: Path) -> Iterator[httpx.Client]:
    site = (DIRECTORY / name).read_text("utf-8")
    for old, new in {**changes, "/var/log/nginx/": f"{directory}/"}.items():
        assert old in site
        site = site.replace(old, new)
    main = directory / "nginx.conf"
    temporary = "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += "\n".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("uwsgi", "scgi"))
    main.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\n{temporary}\n{site}\n}}\n"
    )
    assert NGINX
    with (directory / "errors").open("wb") as errors:
        process = subprocess.Popen([NGINX, "-p", str(directory), "-c", str(main)], stderr=errors)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _until_it_listens(client, process, directory / "errors")
            yield client
    finally:
        process.terminate()
        process.wait(10)


def _until_it_listens(client: httpx.Client, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        assert process.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        try:
            client.get("/nowhere")
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return


def reads(client: httpx.Client, live: Live) -> tuple[int, int, int]:
    """Of one stream: how many tokens were made when the first part came, reads that brought something, and tokens."""
    made = live.context.services.engine.stats().generated_tokens
    body = chat_body(max_tokens=TOKENS, stream=True)
    first, parts, content = 0, 0, b""
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert "x-accel-buffering" not in response.headers  # was meant for nginx
        for part in response.iter_raw():
            first = first or live.context.services.engine.stats().generated_tokens - made
            parts += 1
            content += part
    assert content.endswith(b"data: [DONE]\n\n")
    return first, parts, content.count(b'"content":')


def test_tokens_arrive_one_by_one(proxy: httpx.Client, live: Live) -> None:
    first, parts, tokens = reads(proxy, live)
    assert tokens > TOKENS / 2
    assert first < TOKENS / 2
    assert parts > tokens / 2


def test_a_client_that_leaves_cancels_its_generation(proxy: httpx.Client, live: Live) -> None:
    before = live.cancelled("decode")
    made = live.context.services.engine.stats().generated_tokens
    with proxy.stream("POST", "/v1/chat/completions", json=chat_body(max_tokens=TOKENS, stream=True)) as response:
        assert response.status_code == 200
        next(response.iter_raw())
    deadline = time.monotonic() + 5
    while live.cancelled("decode") == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    live.until_idle()
    assert live.context.services.engine.stats().generated_tokens < made + TOKENS


def test_request_ids_pass_both_ways(proxy: httpx.Client, tmp_path: Path) -> None:
    given = proxy.get("/v1/models", headers={"X-Request-Id": "from-the-client"}).headers["x-request-id"]
    made = proxy.get("/v1/models").headers["x-request-id"]
    bad = proxy.get("/v1/models", headers={"X-Request-Id": "not one id"}).headers["x-request-id"]
    long = proxy.get("/v1/models", headers={"X-Request-Id": "x" * 129}).headers["x-request-id"]
    assert given == "from-the-client"
    assert len(made) == len(bad) == len(long) == 32
    logged = (tmp_path / "kalmagrove.log").read_text()
    assert all(f"id={id}\n" in logged for id in (given, made, bad, long))


@pytest.mark.parametrize(
    "path",
    ["/admin/kb/version", "//admin/kb/version", "/v1/../admin/kb/version", "/v1/%2e%2e/admin/kb/version", "/metrics"],
)
def test_what_operators_call_is_not_forwarded(proxy: httpx.Client, live: Live, path: str) -> None:
    url = str(proxy.base_url).rstrip("/").removeprefix("http://")
    host, port = url.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:  # httpx would tidy the path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404"), answer
    assert '"code":"not_found"' in answer
    if path == "/metrics":
        assert httpx.get(f"{live.url}{path}").status_code == 200


@pytest.mark.parametrize("name", ["kalmagrove.conf", "replicas.conf"])
def test_what_nginx_cannot_read_is_refused_in_the_servers_shape(tmp_path: Path, name: str) -> None:
    port, other = free_ports(2)
    changes = {"listen 8080": f"listen 127.0.0.1:{port}"}
    if name == "replicas.conf":
        changes |= {"listen 8081": f"listen 127.0.0.1:{other}"}
        changes |= {f"replica-{number}:8000": DEAD for number in (1, 2, 3)}
    asked = {
        b"\x00\x01\r\n\r\n": (400, "invalid_http"),
        b"GET /v1/models HTTP/1.1\r\n\r\n": (400, "invalid_http"),  # names no host
        b"GET /../../x HTTP/1.1\r\nHost: a\r\n\r\n": (400, "invalid_http"),
        b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n": (400, "invalid_http"),
        b"POST /v1/models HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n": (400, "invalid_http"),
        b"GET /v1/models HTTP/7.1\r\nHost: a\r\n\r\n": (400, "invalid_http"),
        b"GET /v1/" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n": (431, "headers_too_large"),
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 40_000 + b"\r\n\r\n": (431, "headers_too_large"),
    }
    with _running(name, changes, port, tmp_path):
        for at in (port, other) if name == "replicas.conf" else (port,):
            for request, expected in asked.items():
                with socket.create_connection(("127.0.0.1", at), timeout=5) as connection:
                    connection.sendall(request)
                    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
                assert (int(head.split()[1]), json.loads(body)["error"]["code"]) == expected, (at, request[:60])


def test_refusals_are_in_the_servers_shape(proxy: httpx.Client, tmp_path: Path) -> None:
    large = proxy.post(
        "/v1/chat/completions", content=b" " * (2 << 20 | 1), headers={"Content-Type": "application/json"}
    )
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    unknown = proxy.post("/v1/chat/completions", json={**chat_body(), "model": "other"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    (tmp_path / "alone").mkdir()
    with nginx("http://127.0.0.1:9", tmp_path / "alone") as alone:
        away = alone.get("/v1/models")
    assert (away.status_code, away.json()["error"]["code"]) == (503, "server_unavailable")
    assert away.headers["retry-after"] == "1"


@contextmanager
def balancer(servers: list[str], directory: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """replicas.conf in front of these servers (host:port): for clients, and for operators."""
    port, admin_port = free_ports(2)
    changes = {"listen 8080": f"listen 127.0.0.1:{port}", "listen 8081": f"listen 127.0.0.1:{admin_port}"}
    changes |= {f"replica-{number}:8000": server for number, server in enumerate(servers, 1)}
    with (
        _running("replicas.conf", changes, port, directory) as client,
        httpx.Client(base_url=f"http://127.0.0.1:{admin_port}", timeout=30) as admin,
    ):
        yield client, admin


def test_replicas_that_are_gone_are_passed_over(live: Live, tmp_path: Path) -> None:
    """Nobody notices, but for an edit that was on its way to one: the next one goes elsewhere."""
    alive = live.url.removeprefix("http://")
    with balancer([DEAD, alive, alive], tmp_path) as (client, admin):
        assert [client.get("/v1/models").status_code for _ in range(8)] == [200] * 8
        answers = [client.post("/v1/chat/completions", json=chat_body(max_tokens=2)) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        facts = {"facts": [{"id": "ceo", "text": FACTS["ceo"]}]}
        lost = admin.put("/admin/kb/facts", json=facts)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "server_unavailable")
        assert admin.put("/admin/kb/facts", json=facts).status_code == 200
        assert admin.get("/console").status_code == admin.get("/admin/kb/version").status_code == 200
        for path in ("/admin/kb/version", "/metrics", "/console"):
            assert client.get(path).status_code == 404
        assert admin.get("/metrics").status_code == 404


class Half(threading.Thread):
    """A server that reads each request and hangs up."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.methods: list[str] = []
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self.methods.append(connection.recv(65536).split(b" ")[0].decode())


def test_only_reads_are_asked_twice(live: Live, tmp_path: Path) -> None:
    half = Half()
    with half.listener, balancer([half.address, live.url.removeprefix("http://"), DEAD], tmp_path) as (client, admin):
        edited = admin.put("/admin/kb/facts", json={"facts": [{"id": "ceo", "text": FACTS["ceo"]}]})
        assert edited.status_code == 503
        codes = []
        while "POST" not in half.methods:  # until it is its turn
            codes.append(client.post("/v1/chat/completions", json=chat_body(max_tokens=2)).status_code)
            assert len(codes) < 50
            time.sleep(0.2)
        assert codes[-1] == 503
        assert set(codes[:-1]) <= {200}
        while "GET" not in half.methods:
            assert client.get("/v1/models").status_code == 200
            time.sleep(0.2)
    assert half.methods.count("PUT") == half.methods.count("POST") == 1
