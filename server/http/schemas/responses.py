"""/v1/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http.schemas.base import MAX_TOP_LOGPROBS, Integer, Request, SamplingRequest, at_most, one_unknown_of
from server.http.schemas.items import Items, OutputItem
from server.http.schemas.knowledge import KnowledgeReport, KnowledgeRequest
from server.http.schemas.messages import SentBack
from server.http.schemas.tools import MAX_TOOLS, FunctionName, several_calls
from server.service.forms import Form

MAX_METADATA = 16
STRICT = ConfigDict(extra="forbid", strict=True)
LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs",
    # Of what no answer here has: it is asked for in vain.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponseTool(SentBack):
    """A function to call. Arguments always fit its schema, strict or not."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """None: it takes none."""
    strict: bool | None = None


class NamedFunctionTool(Request):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class AllowedTools(Request):
    """Those of the tools that may be called now."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunctionTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class TextFormat(TypedDict):
    """What the text is to look like: anything, some JSON object, or JSON that a schema allows."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    type: Literal["text", "json_object", "json_schema"]
    name: NotRequired[Annotated[str, Field(max_length=256)] | None]
    """Accepted; the model does not see it, nor the description."""
    description: NotRequired[str | None]
    schema: NotRequired[dict[str, Any] | None]
    """None: any object."""
    strict: NotRequired[bool | None]
    """Accepted; the schema is always kept to."""


class TextConfig(Request):
    """How the text is to be."""

    format: Annotated[TextFormat, one_unknown_of(TextFormat.__annotations__)] | None = None
    verbosity: Literal["medium"] | None = None


def _functions_only(tools: Any) -> Any:
    for place, tool in enumerate(tools[:MAX_TOOLS] if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            message = "{kind} is not supported by this server: tools are functions"
            raise PydanticCustomError("unsupported", message, {"param": f"tools[{place}].type", "kind": kind[:64]})
    return tools


def _servable_choice(choice: Any) -> Any:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in ("function", "allowed_tools"):
        message = "{kind} is not supported by this server"
        raise PydanticCustomError("unsupported", message, {"param": "tool_choice.type", "kind": kind[:64]})
    return choice


def _choice_tag(choice: Any) -> str:
    """With a hyphen: no error names it as a part of the path."""
    if not isinstance(choice, dict):
        return "mode-choice"
    return "allowed-choice" if choice.get("type") == "allowed_tools" else "named-choice"


def _not_cut(truncation: Any) -> Any:
    if truncation == "auto":
        raise PydanticCustomError("unsupported", "auto is not supported by this server, which never cuts a prompt")
    return truncation


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
    at_most(MAX_METADATA),
]


class ResponseRequest(SamplingRequest):
    """OpenAI's request, and `knowledge`."""

    input: Annotated[str, Field(min_length=1)] | Items
    instructions: str | None = None
    max_output_tokens: Annotated[Integer, Field(ge=1, le=2**31)] | None = None
    include: Annotated[list[Includable], Field(max_length=16, fail_fast=True)] | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: (
        Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS, fail_fast=True), BeforeValidator(_functions_only)]
        | None
    ) = None
    tool_choice: Annotated[
        Annotated[Literal["none", "auto", "required"] | None, Tag("mode-choice")]
        | Annotated[NamedFunctionTool, Tag("named-choice")]
        | Annotated[AllowedTools, Tag("allowed-choice")],
        Discriminator(_choice_tag),
        BeforeValidator(_servable_choice),
    ] = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    """None: it is kept, where responses are."""
    previous_response_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    truncation: Annotated[Literal["disabled"] | None, BeforeValidator(_not_cut)] = None
    knowledge: KnowledgeRequest | None = None

    @model_validator(mode="after")
    def _check_together(self) -> ResponseRequest:
        if self.choices > 1:
            raise PydanticCustomError("unsupported", "a response is one answer", {"param": "n"})
        names = [tool.name for tool in self.tools or ()]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise PydanticCustomError("inconsistent", f"is given twice: {name}", {"param": f"tools[{place}].name"})
        if isinstance(self.tool_choice, NamedFunctionTool) and self.tool_choice.name not in names:
            raise PydanticCustomError("inconsistent", "names no tool of these", {"param": "tool_choice.name"})
        if isinstance(self.tool_choice, AllowedTools):
            for place, one in enumerate(self.tool_choice.tools):
                if one.name not in names:
                    param = f"tool_choice.tools[{place}].name"
                    raise PydanticCustomError("inconsistent", "names no tool of these", {"param": param})
        if self.tool_choice == "required" and not names:
            raise PydanticCustomError("inconsistent", "needs tools", {"param": "tool_choice"})
        return self

    @model_validator(mode="after")
    def _check_format(self) -> ResponseRequest:
        if self.format["type"] != "json_schema" and self.format.get("schema") is not None:
            message = "belongs to the type json_schema, and to no other"
            raise PydanticCustomError("inconsistent", message, {"param": "text.format.schema"})
        return self

    @property
    def format(self) -> Mapping[str, Any]:
        """What the text is to look like."""
        given: Mapping[str, Any] | None = self.text.format if self.text is not None else None
        return {"type": "text"} if given is None else given

    @property
    def form(self) -> Form | None:
        """The same for the service; None: like anything."""
        if self.format["type"] == "text":
            return None
        schema = self.format.get("schema")
        if schema is None:
            return Form("json", {"type": "object"}, "text.format")
        return Form("json", schema, "text.format.schema")

    @property
    def alternatives(self) -> int | None:
        """Log probabilities to report per token; None: not even of the token itself."""
        return self.top_logprobs or 0 if self.top_logprobs or LOGPROBS in (self.include or ()) else None

    @property
    def callable(self) -> list[tuple[int, ResponseTool]]:
        """Tools that may be called, with their places among all."""
        if self.tool_choice == "none":
            return []
        names = None
        if isinstance(self.tool_choice, NamedFunctionTool):
            names = {self.tool_choice.name}
        elif isinstance(self.tool_choice, AllowedTools):
            names = {one.name for one in self.tool_choice.tools}
        return [(place, tool) for place, tool in enumerate(self.tools or ()) if names is None or tool.name in names]

    @property
    def may_call_again(self) -> bool:
        """Whether there may be several calls."""
        return several_calls(self.parallel_tool_calls, named=isinstance(self.tool_choice, NamedFunctionTool))

    @property
    def must_call(self) -> bool:
        """Whether one of them has to be."""
        if isinstance(self.tool_choice, AllowedTools):
            return self.tool_choice.mode == "required"
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedFunctionTool)


class InputTokensDetails(TypedDict):
    """Always there, also when it is 0."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Likewise."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Token counts. Knowledge is not part of the prompt."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    """Why there is no answer, or not all of it."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why the answer ends where it does."""

    reason: Literal["max_output_tokens"]


class EchoedTool(TypedDict):
    """As it was given."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class EchoedText(TypedDict):
    """Likewise."""

    format: dict[str, Any]


class ResponseObject(TypedDict):
    """A response, done or in the making."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    """Whether it can be looked up and gone on from."""
    temperature: float
    text: EchoedText
    tool_choice: str | dict[str, Any]
    tools: list[EchoedTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    ended_by: NotRequired[Literal["deadline"]]
    """Where that is why it is incomplete."""
    knowledge: NotRequired[KnowledgeReport]


class DeletedResponse(TypedDict):
    """It is gone."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(TypedDict):
    """A page of a response's input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
