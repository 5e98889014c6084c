"""SCAN's words are one token each, wherever they stand; anything else is bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.prompt import ChatMessage, PromptBuilder
from kan.tokenizer import Tokenizer
from lab.questions.scan import commands
from lab.questions.scan_words import END, TEMPLATE, meaning, reply, tokenizer_json, tokens_of_cycles, vocabulary

TOKENIZER = Tokenizer(tokenizer_json())
PROMPT = PromptBuilder(TOKENIZER, TEMPLATE, eos_token=END)


def spelled(tokens: list[int] | tuple[int, ...]) -> list[str]:
    return [TOKENIZER.token_bytes(token).decode("utf-8", "replace") for token in tokens]


def test_every_command_and_reply_has_one_token_a_word() -> None:
    longest = 0
    for one in commands()[::7]:
        asked = PROMPT.chat([ChatMessage("user", one.text)], with_knowledge=False)
        assert len(asked) == len(one.text.split()) + 5
        said = TOKENIZER.encode(reply(one.actions))
        assert len(said) == len(one.actions)
        assert TOKENIZER.decode(said).split() == list(one.actions)
        longest = max(longest, len(asked) + len(said) + 1)
    assert longest < 80


def test_a_word_is_the_same_token_first_and_last() -> None:
    first, last = (PROMPT.chat([ChatMessage("user", text)], with_knowledge=False) for text in ("jump", "walk and jump"))
    (jump,) = TOKENIZER.encode(" jump")
    assert jump in first
    assert jump in last


def test_facts_and_what_is_around_them_are_words_too() -> None:
    assert spelled(PROMPT.fact(meaning("dax", "I_RUN"))) == ["-", " dax", " means", " I_RUN", "\n"]
    assert len(PROMPT.preamble) == 14
    with_facts = PROMPT.chat([ChatMessage("user", "dax")], with_knowledge=True)
    assert spelled(with_facts) == [END, "<|im_start|>", "user", " dax", END, "<|im_start|>", "assistant"]


def test_ids_have_no_gaps() -> None:
    assert sorted(vocabulary().values()) == list(range(TOKENIZER.vocab_size))


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special=False) == text


def test_cycles_of_words() -> None:
    (((left, right),),) = tokens_of_cycles([[["left", "right"]]])
    assert spelled([left, right]) == [" left", " right"]
    with pytest.raises(ValueError, match="'up' is no word"):
        tokens_of_cycles([[["left", "up"]]])
