"""Functions that the model may call, as OpenAI's API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from server.http.schemas.base import OpenAIRequest, Request
from server.http.schemas.messages import SentBack

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(Request):
    """A function. Arguments always fit its schema, strict or not."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """None: it takes none."""
    strict: bool | None = None


class FunctionTool(SentBack):
    """Something to call. Only functions are known."""

    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    """By its name."""

    name: FunctionName


class NamedTool(Request):
    """The one that must be called."""

    type: Literal["function"]
    function: NamedFunction


def several_calls(wanted: bool | None, *, named: bool) -> bool:
    """Whether there may be several calls (`parallel_tool_calls`). A function asked for by name is called once."""
    return wanted is not False and not named


class ToolsRequest(OpenAIRequest):
    """The part of a request that says what may be called."""

    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _check_tools(self) -> ToolsRequest:
        names = [tool.function.name for tool in self.tools or ()]
        for place, name in enumerate(names):
            if name in names[:place]:
                message = f"is given twice: {name}"
                raise PydanticCustomError("inconsistent", message, {"param": f"tools[{place}].function.name"})
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise PydanticCustomError("inconsistent", "names no tool of these", {"param": "tool_choice.function.name"})
        if self.tool_choice == "required" and not names:
            raise PydanticCustomError("inconsistent", "needs tools", {"param": "tool_choice"})
        return self


class CalledFunction(TypedDict):
    """Its name, and JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call, for the client to carry out."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledFunctionDelta(TypedDict, total=False):
    """The name first, then arguments, piece by piece."""

    name: str
    arguments: str


class ToolCallDelta(TypedDict, total=False):
    """What came new of a call; `id` and `type` with the name."""

    index: int
    id: str
    type: Literal["function"]
    function: CalledFunctionDelta
