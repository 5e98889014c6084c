"""What can be configured, from KALMAGROVE_* environment variables. Unknown names and bad values name themselves."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kb.facts import SearchMethod

PREFIX = "KALMAGROVE_"
CLIENT_VARIABLES = frozenset(
    {
        "KALMAGROVE_URL",
        "KALMAGROVE_ADMIN_URL",
        "KALMAGROVE_API_KEY",
        "KALMAGROVE_ADMIN_KEY",
        "KALMAGROVE_NAMESPACE",
    }
)
"""Read by the command line when it speaks to a server; no settings of the server."""

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


class Settings(BaseSettings):
    """Settings of one server process. Immutable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, protected_namespaces=())

    host: str = "127.0.0.1"
    """Where to listen. Anything but loopback needs key files."""
    port: int = Field(8000, ge=0, le=65535)
    """0: any free port."""
    admin_host: str | None = None
    """Where /admin and /metrics listen if they are apart; none: as `host`."""
    admin_port: int | None = Field(None, ge=0, le=65535)
    """Puts /admin and /metrics on a listener of their own, and off the public one. 0: any free port."""
    ssl_certfile: Path | None = None
    """PEM certificates: TLS on every listener."""
    ssl_keyfile: Path | None = None
    """Its private key; none: it is in ssl_certfile."""
    ssl_keyfile_password: SecretStr | None = None
    data_dir: Path = Path("data")
    """Models, knowledge and cached pages live under it."""
    model: str = "smollm2-135m"
    """A name under data_dir/models, or of a shipped model, or the path of a checkpoint directory."""
    phi: str = "auto"
    """Safetensors file of φ; `gap`: the built-in one that goes by the retriever's ranking; `none`: no bias; `auto`: the
    one shipped for the model, else `gap`."""
    engine: Literal["embedded", "vllm"] = "embedded"
    """Who runs the model: this process, or vLLM's (`make serve-vllm`)."""
    vllm_args: str = ""
    """vLLM's own command line options, e.g. `--tensor-parallel-size 2`."""
    client_keys_file: Path | None = None
    """One `name:sha256-of-key` per line; for /v1, /tokenize, /detokenize."""
    admin_keys_file: Path | None = None
    """The same for /admin."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    kernels: Literal["auto", "native", "torch"] = "auto"
    """The compiled kernels, or torch's operations."""
    attention: Literal["auto", "full", "sqrt"] = "auto"
    """Over everything, or √n attention in long contexts; `auto`: as the model was made."""
    attention_blocks: int | None = Field(None, ge=1)
    """Of √n attention: how many blocks a row chooses; none: as the model says."""
    attention_threshold: int | None = Field(None, ge=0)
    """Of √n attention: tokens of a context whose rows see everything; none: as the model says."""
    page_bits: Annotated[Literal[4, 8, 16], BeforeValidator(int)] = 16
    """Of the numbers in facts' pages, in memory and on disk: 8 or 4, or 16 for the model's own (`dtype`)."""
    cache_gib: float = Field(1.0, gt=0)
    """Memory for KV pages."""
    page_cache_disk_gib: float = Field(4.0, ge=0)
    """Disk for encoded facts; 0: none."""
    disk_reserve_mib: int = Field(256, ge=0)
    """Free disk that encoded facts leave to the log: below it they give way."""
    max_waiting: int = Field(64, ge=1)
    """Requests that may queue for the engine; more are refused with 429."""
    max_running: int = Field(16, ge=1)
    """Sequences that are decoded together. With keys, one place in eight is kept for callers that have none."""
    key_share: float = Field(0.75, gt=0, le=1)
    """Of each queue, how much one key may fill."""
    key_weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Shares of callers, by the name of their key, where they wait for each other; 1 if not named."""
    step_tokens: int = Field(256, ge=16)
    """Tokens one engine step may take."""
    max_choices: int = Field(16, ge=1)
    """n of one request; and how many of its answers may wait or be made at once, whatever the number of prompts."""
    max_body_bytes: int = Field(2 * 2**20, ge=1024)
    max_import_bytes: int = Field(4 * 2**30, ge=1024)
    """Body bound of /admin/kb/import, which is streamed."""
    max_line_bytes: int = Field(64 * 2**10, ge=256)
    """Longest line of an import."""
    body_idle_timeout_s: float = Field(30.0, gt=0)
    """Longest silence while a body is being sent."""
    body_timeout_s: float = Field(60.0, gt=0)
    """Longest wait for a whole body."""
    min_import_bytes_per_s: int = Field(1024, ge=1)
    """An import may be waited for as much longer as it would take at this rate."""
    send_timeout_s: float = Field(60.0, gt=0)
    """How long a client may leave an answer unread."""
    stream_keep_alive_s: float = Field(5.0, gt=0)
    """Longest silence of a stream of events: a comment breaks it."""
    max_header_bytes: int = Field(64 * 2**10, ge=1024)
    """Request line and headers; more get 431."""
    header_timeout_s: float = Field(15.0, gt=0)
    """From a connection's beginning, or a request's first byte, to a complete head; likewise for a TLS handshake."""
    keep_alive_s: float = Field(75.0, gt=0)
    """How long a connection is kept for the next request."""
    cors_origins: str = ""
    """Web pages that may call /v1, /tokenize and /detokenize: origins, separated by commas, or `*` with keys."""
    max_connections: int = Field(2048, ge=1)
    """Busy with a request. Idle ones are closed, the longest idle first, when connections run short."""
    max_fact_tokens: int = Field(256, ge=1)
    max_facts_per_request: int = Field(64, ge=0)
    """Upper bound of knowledge.top_k."""
    max_batch_facts: int = Field(512, ge=1)
    """Facts of one edit; imports commit in batches of this size."""
    max_pending_edits: int = Field(32, ge=1)
    """Edits that may be in progress; more are refused with 429."""
    max_embedding_inputs: int = Field(2048, ge=1)
    max_stored_responses: int = Field(10_000, ge=0)
    """Answers of /v1/responses that are kept, to be looked up and gone on from; 0: none."""
    stored_responses_mib: int = Field(256, ge=1)
    """Disk for them; whoever holds most makes room, the oldest first."""
    stored_responses_days: float = Field(30.0, gt=0)
    """How long one is kept."""
    default_max_tokens: int = Field(1024, ge=1)
    """Of a chat completion or a response whose request does not say."""
    top_k: int = Field(8, ge=0)
    """At most so many facts are mounted if a request does not say."""
    cold_tokens: int = Field(512, ge=0)
    """Tokens of facts without pages that a question may wait for; the least relevant beyond that are left out."""
    retrieval: SearchMethod = "hybrid"
    """How facts are found if a request does not say: by meaning, by words, or by both."""
    follow_up: bool = True
    """Look up a turn that points back ("And its depot?") with what it points to, if a request does not say."""
    min_score: float = Field(0.2, ge=-1, le=1)
    """Least relevance of a mounted fact if a request does not say."""
    max_gap: float = Field(0.2, ge=0, le=4)
    """How far behind the best fact another may rank and still be mounted, if a request does not say."""
    drop_covered: bool = True
    """Leave out facts that have fewer of the question's words than a better one, and none that it lacks. A request's
    drop_covered takes its place; one that names a max_gap gets all that lag no further, unless it says otherwise."""
    min_best_score: float = Field(0.35, ge=-1, le=1)
    """Least relevance of the best fact: below it nothing is mounted. A request's min_score takes the place of both."""
    grounded_threshold: float = Field(0.5, ge=0, le=1)
    """Least `grounded` of an answer that is given although knowledge.require_grounded is set."""
    min_version_wait_s: float = Field(1.0, ge=0)
    """How long to wait for knowledge.min_version."""
    request_timeout_s: float = Field(120.0, gt=0)
    """Deadline of a completion: it ends then with what there is. Likewise of an edit, which is refused."""
    drain_timeout_s: float = Field(30.0, ge=0)
    """How long running streams may go on after SIGTERM."""
    sweep_interval_s: float = Field(5.0, gt=0)
    """How often expired facts are removed (they stop being served the moment they expire)."""
    knowledge_url: str | None = None
    """Path or database URL of the facts log; none: data_dir/kb. Servers may share one in PostgreSQL."""
    knowledge_poll_s: float = Field(1.0, ge=0.05, le=60)
    """How often a log in PostgreSQL is looked at for what others did, if it does not say so itself."""
    history_days: float | None = Field(None, gt=0)
    """How long older versions of the knowledge can be read and gone back to; none: for ever."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """At info every request is logged."""
    console: bool = True
    """Serve the page at /console, where /admin is; if that is a listener of its own, so is all that the page asks."""
    log_format: Literal["text", "json"] = "text"
    """Of every line on stderr."""
    otel: Literal["auto", "on", "off"] = "auto"
    """Traces by OTLP; `auto`: if OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) says where to."""
    demo: bool = False
    """Fill an empty knowledge store with the demo's facts."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        known = {PREFIX + name.upper() for name in cls.model_fields} | CLIENT_VARIABLES
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}")
        return values

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.engine == "vllm" and self.page_dir is None:
            raise ValueError("page_cache_disk_gib: the vllm engine needs disk, its facts come from there")
        if self.engine == "vllm" and self.attention == "sqrt":
            raise ValueError("attention: the vllm engine computes full attention only, not sqrt")
        if self.engine == "vllm" and self.page_bits != 16:
            raise ValueError("page_bits: the vllm engine keeps facts in vLLM's own KV cache, in the model's numbers")
        if self.vllm_args and self.engine != "vllm":
            raise ValueError("vllm_args: only the vllm engine takes them")
        if self.top_k > self.max_facts_per_request:
            raise ValueError("top_k is above max_facts_per_request")
        self._check_listeners()
        self._check_origins()
        return self

    def _check_origins(self) -> None:
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"cors_origins: {origin!r} is no origin; write https://host or https://host:port")
        if "*" in self.allowed_origins and not self.keys_configured:
            raise ValueError("cors_origins: * needs key files, or any web page could use the server")

    def _check_listeners(self) -> None:
        if self.admin_host is not None and not self.admin_apart:
            raise ValueError("admin_host: needs admin_port, which puts /admin apart")
        if (self.ssl_keyfile or self.ssl_keyfile_password) and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile: needs ssl_certfile")
        admin_host, admin_port = self.admin_address
        if self.admin_apart and admin_port and admin_port == self.port and _overlap(self.host, admin_host):
            raise ValueError("admin_port: is the public port as well")
        for host in (self.host, admin_host):
            if not self.keys_configured and not is_loopback(host):
                raise ValueError(
                    f"host {host}: without client_keys_file and admin_keys_file the server listens on loopback only"
                )

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Of web pages, as browsers spell them."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())

    @property
    def admin_apart(self) -> bool:
        """Whether /admin and /metrics have a listener of their own."""
        return self.admin_port is not None

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of /admin and /metrics."""
        return self.admin_host or self.host, self.port if self.admin_port is None else self.admin_port

    @property
    def keys_configured(self) -> bool:
        """True if callers must show a key."""
        return self.client_keys_file is not None or self.admin_keys_file is not None

    @property
    def model_dir(self) -> Path:
        """The checkpoint's directory."""
        path = Path(self.model)
        return path if path.is_absolute() or len(path.parts) > 1 else self.data_dir / "models" / self.model

    @property
    def view_dir(self) -> Path:
        """Where models are shown to vLLM."""
        return self.data_dir / "vllm"

    @property
    def knowledge_location(self) -> str:
        """What Store.open gets."""
        return self.knowledge_url or str(self.data_dir / "kb")

    @property
    def replica_dir(self) -> Path:
        """For what saves a start time where the log is in a database."""
        return self.data_dir / "replica"

    @property
    def page_dir(self) -> Path | None:
        """Where encoded facts are cached, if anywhere."""
        return self.data_dir / "pages" if self.page_cache_disk_gib else None


def _overlap(host: str, other: str) -> bool:
    """Whether one port cannot serve both."""
    hosts = {"127.0.0.1" if one == "localhost" else one for one in (host, other)}
    return len(hosts) == 1 or bool({"", "0.0.0.0", "::"} & hosts)


def is_loopback(host: str) -> bool:
    """True for localhost and addresses that never leave the machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
