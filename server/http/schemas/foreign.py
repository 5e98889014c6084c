"""Fields that are not ours: OpenAI's that are not served, other servers' own, and what clients keep for themselves.

One that cannot change the answer at the value it has is dropped; any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

IGNORED = frozenset(
    {
        "cache_prompt",
        "cache_salt",
        "include_reasoning",
        "keep_alive",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "rid",
        "safety_identifier",
        "separate_reasoning",
        "service_tier",
        "stream_reasoning",
        "user",
    }
)
"""Change nothing about the answer, whatever they hold."""

HARMLESS: dict[str, tuple[object, ...]] = {
    # OpenAI's own
    "audio": (),
    "background": (False,),
    "best_of": (1,),
    "context_management": ([],),
    "conversation": (),
    "function_call": ("none",),
    "functions": ([],),
    "max_tool_calls": (),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt": (),
    "reasoning": ({}, {"effort": "none"}),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's
    "add_generation_prompt": (True,),
    "add_special_tokens": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "echo": (False,),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "stop_token_ids": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    # SGLang's, llama.cpp's, Ollama's and OpenRouter's
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "enable_thinking": (False,),
    "lora_path": (),
    "min_keep": (0,),
    "min_new_tokens": (0,),
    "mirostat": (0,),
    "no_stop_trim": (False,),
    "options": ({},),
    "plugins": ([],),
    "repeat_penalty": (1,),
    "return_hidden_states": (False,),
    "tfs_z": (1,),
    "think": (False,),
    "timings_per_token": (False,),
    "top_a": (0,),
    "transforms": ([],),
    "typical_p": (1,),
    "xtc_probability": (0,),
}
"""Not served, but ask for nothing at these values, or at null."""

BOOKKEEPING = frozenset(
    {
        "annotations",
        "cache_control",
        "id",
        "index",
        "logprobs",
        "parsed",
        "parsed_arguments",
        "phase",
        "prompt_cache_breakpoint",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "status",
        "thinking_blocks",
    }
)
"""Members of a message, or of a part of one, that clients send back and no model is shown, whatever they hold."""


def without_foreign(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a request that are `known`, and those that are neither known nor harmless.

    Raises PydanticCustomError, naming the first field of another API that asks for what is not served.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in known:
            kept[name] = value
        elif value is None or name in IGNORED:
            continue
        elif name not in HARMLESS:
            kept[name] = value
        elif value not in HARMLESS[name]:
            raise PydanticCustomError("unsupported", "is not supported by this server", {"param": name})
    return kept


def without_bookkeeping(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Members of a message that are `known`, and those that say something nobody here understands."""
    return {
        name: value
        for name, value in values.items()
        if name in known or not (name in BOOKKEEPING or value is None or value in ("", [], {}, False))
    }
