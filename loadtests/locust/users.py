"""The clients. `locust --locustfile loadtests/locust/users.py --host URL [CLASS…]`, or `make locust`.

Keys are taken from KALMAGROVE_API_KEY and KALMAGROVE_ADMIN_KEY, the address of /admin, where it is another than the
host's, from KALMAGROVE_ADMIN_URL. Facts go into a namespace of this process' own and expire by themselves.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterable
from typing import Any, ClassVar

import httpx
from locust import HttpUser, between, constant, events, task
from locust.env import Environment

from loadtests.corpus import Item, make_corpus, rewritten

FACTS = 64
EXPIRE_S = 4 * 3600
CORPUS = tuple(make_corpus(FACTS, 1))
NAMESPACE = f"locust-{secrets.token_hex(4)}"
CHAT_PATH = "/v1/chat/completions"


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust does not type it
def prepare(environment: Environment, **_: Any) -> None:
    """Puts the facts, before the time of the run begins: `test_start` would be within it. Raises httpx.HTTPError."""
    with httpx.Client(base_url=str(environment.host), timeout=600, trust_env=False) as http:
        models = http.get("/v1/models", headers=_bearer("API")).raise_for_status().json()
        Client.model = models["data"][0]["id"]
        http.put(facts_url(), json=facts(CORPUS), headers=_bearer("ADMIN")).raise_for_status()


def facts_url() -> str:
    return os.environ.get("KALMAGROVE_ADMIN_URL", "").rstrip("/") + "/admin/kb/facts"


def facts(items: Iterable[Item]) -> dict[str, Any]:
    """The body of an edit: the facts of these items, with texts never seen before."""
    serial = random.randrange(10**8, 10**9)
    written = [rewritten(item, serial) for item in items]
    expires_at = time.time() + EXPIRE_S
    return {"facts": [{"id": f.id, "text": f.text, "namespace": NAMESPACE, "expires_at": expires_at} for f in written]}


class Client(HttpUser):
    """What the clients share."""

    abstract = True
    wait_time = between(0.1, 0.5)
    model: ClassVar[str] = ""

    def question(self, **fields: Any) -> dict[str, Any]:
        """The request for an answer from knowledge."""
        return {
            "model": Client.model,
            "messages": [{"role": "user", "content": random.choice(CORPUS).question}],
            "knowledge": {"namespace": NAMESPACE},
            "max_tokens": 16,
            "temperature": 0,
            **fields,
        }


class Chat(Client):
    """Asks, waits for the whole answer, and looks whether it was drawn from facts."""

    weight = 3

    @task
    def ask(self) -> None:
        with self.client.post(
            CHAT_PATH, json=self.question(), headers=_bearer("API"), name="chat", catch_response=True
        ) as response:
            if response.ok and not response.json()["knowledge"]["facts"]:
                response.failure("no fact mounted")


class Stream(Client):
    """Reads a stream. The time to its first token is a request of its own in the reports."""

    weight = 3

    @task
    def ask(self) -> None:
        started = time.perf_counter()
        first: float | None = None
        with self.client.post(
            CHAT_PATH,
            json=self.question(stream=True),
            headers=_bearer("API"),
            name="stream, whole",
            stream=True,
            catch_response=True,
        ) as response:
            done = False
            for line in response.iter_lines():
                if first is None and b'"content":' in line:
                    first = time.perf_counter() - started
                done = done or line == b"data: [DONE]"
            # Locust would have stopped at the headers.
            response.request_meta["response_time"] = (time.perf_counter() - started) * 1e3
            if response.ok and not done:
                response.failure("the stream broke off")
        if first is not None:
            self.environment.events.request.fire(
                request_type="TTFT",
                name="stream, first token",
                response_time=first * 1e3,
                response_length=0,
                exception=None,
                context={},
            )


class Edit(Client):
    """Edits single facts while the others are served."""

    weight = 1

    @task
    def edit(self) -> None:
        self.client.put(facts_url(), json=facts([random.choice(CORPUS)]), headers=_bearer("ADMIN"), name="PUT fact")


class Leave(Client):
    """Leaves before its answer is complete."""

    weight = 1

    @task
    def leave(self) -> None:
        with self.client.post(
            CHAT_PATH,
            json=self.question(stream=True, max_tokens=200, ignore_eos=True),
            headers={**_bearer("API"), "Connection": "close"},
            name="stream, left",
            stream=True,
            catch_response=True,
        ) as response:
            next(response.iter_lines(), None)


class Overload(Client):
    """Does not wait. Being refused is what it expects, if the refusal says when to come again."""

    weight = 1
    wait_time = constant(0)

    @task
    def ask(self) -> None:
        with self.client.post(
            CHAT_PATH, json=self.question(), headers=_bearer("API"), name="overload", catch_response=True
        ) as response:
            if response.status_code != 429:
                return
            response.request_meta["name"] = "overload, refused"
            if "Retry-After" in response.headers:
                response.success()
            else:
                response.failure("429 without Retry-After")


def _bearer(role: str) -> dict[str, str]:
    key = os.environ.get(f"KALMAGROVE_{role}_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}
