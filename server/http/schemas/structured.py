"""What an answer is to look like: OpenAI's `response_format`, and vLLM's fields for the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, from_json
from typing_extensions import TypedDict

from server.http.schemas.base import OpenAIRequest, Request, one_unknown_of
from server.service.forms import Form

MAX_TEXT = 2**15
"""Of an expression or a grammar: what some take to compile grows with the square of it."""
MAX_CHOICES = 4096
STRICT = ConfigDict(extra="forbid", strict=True)

Schema = dict[str, Any]
Expression = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1024)]],
    Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True),
]


class JsonSchema(TypedDict):
    """A schema with its name."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    name: NotRequired[Annotated[str, Field(max_length=256)]]
    """Accepted; the model does not see it, nor the description."""
    description: NotRequired[str | None]
    schema: NotRequired[Schema | None]
    """None: any object."""
    strict: NotRequired[bool | None]
    """Accepted; the schema is always kept to."""


class ResponseFormat(Request):
    """Anything, some JSON object, or JSON that a schema allows."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[JsonSchema, one_unknown_of(JsonSchema.__annotations__)] | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.json_schema is None) == (self.type == "json_schema"):
            message = "belongs to the type json_schema, and to no other"
            raise PydanticCustomError("inconsistent", message, {"param": "response_format.json_schema"})
        return self


class StructuredOutputs(TypedDict, total=False):
    """The four `guided_…` fields, as vLLM has them since 0.12."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    json: Schema | str | None
    regex: Expression | None
    choice: Choices | None
    grammar: Expression | None


class StructuredRequest(OpenAIRequest):
    """The part of a request that says it."""

    response_format: ResponseFormat | None = None
    guided_json: Schema | str | None = None
    """Extension, as vLLM's: a schema, or its text."""
    guided_regex: Expression | None = None
    """Extension."""
    guided_choice: Choices | None = None
    """Extension."""
    guided_grammar: Expression | None = None
    """Extension: Lark or GBNF."""
    structured_outputs: Annotated[StructuredOutputs, one_unknown_of(StructuredOutputs.__annotations__)] | None = None
    """Extension: the same four, as newer vLLMs have them."""

    @model_validator(mode="after")
    def _check_forms(self) -> StructuredRequest:
        """One at most. A schema that is text is read here, so that it is refused by its name."""
        forms = self._forms()
        if len(forms) > 1:
            message = f"is given together with {forms[0].param}; give one of them"
            raise PydanticCustomError("inconsistent", message, {"param": forms[1].param})
        for form in forms:
            _schema(form)
        return self

    @property
    def form(self) -> Form | None:
        """What the answer is to look like; None: like anything."""
        forms = self._forms()
        return _schema(forms[0]) if forms else None

    def _forms(self) -> list[Form]:
        forms = [
            Form("json", self.guided_json, "guided_json"),
            Form("regex", self.guided_regex, "guided_regex"),
            Form("choice", self.guided_choice, "guided_choice"),
            Form("grammar", self.guided_grammar, "guided_grammar"),
        ]
        if (newer := self.structured_outputs) is not None:
            forms += [
                Form("json", newer.get("json"), "structured_outputs.json"),
                Form("regex", newer.get("regex"), "structured_outputs.regex"),
                Form("choice", newer.get("choice"), "structured_outputs.choice"),
                Form("grammar", newer.get("grammar"), "structured_outputs.grammar"),
            ]
        given = [form for form in forms if form.value is not None]
        if (wanted := self.response_format) is not None and wanted.type != "text":
            schema = wanted.json_schema.get("schema") if wanted.json_schema else None
            param = "response_format.json_schema.schema" if wanted.json_schema else "response_format"
            given.append(Form("json", {"type": "object"} if schema is None else schema, param))
        return given


def _schema(form: Form) -> Form:
    if form.kind != "json" or not isinstance(form.value, str):
        return form
    try:
        value = from_json(form.value, allow_inf_nan=False)
    except ValueError as error:
        raise PydanticCustomError("invalid_json", "is not JSON", {"param": form.param}) from error
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_json", "is not a JSON object", {"param": form.param})
    return Form("json", value, form.param)
