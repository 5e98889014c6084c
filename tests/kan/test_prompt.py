"""PromptBuilder: what transformers renders, cut where the facts go, and immune to control tokens in contents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kan.prompt as module
from kan.checkpoint.directory import Checkpoint
from kan.prompt import INSTRUCTION, ChatMessage, PromptBuilder
from kan.tokenizer import Tokenizer
from tests.kan.test_tokenizer import varied_text
from tests.tiny import CHATML, tiny_config, tiny_tokenizer_json

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_end|>\n\n' + message['content'] | trim + '<|endoftext|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{% endif %}"
)
"""The form of Llama 3's template: BOS inside, contents trimmed."""

TEMPLATES = [CHATML, LLAMA3]

conversations = st.lists(
    st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant", "tool"]), varied_text),
    min_size=1,
    max_size=4,
)


def builder(template: str | None = CHATML, **variables: str) -> PromptBuilder:
    return PromptBuilder(Tokenizer(tiny_tokenizer_json()), template, **variables)


@pytest.fixture(scope="module")
def chatml() -> PromptBuilder:
    return builder()


@pytest.fixture(scope="module")
def smollm2_prompt(smollm2: Checkpoint) -> PromptBuilder:
    return PromptBuilder.from_checkpoint(smollm2)


def spell(prompt: PromptBuilder, ids: Any) -> str:
    return prompt.tokenizer.decode(ids, skip_special=False)


def test_preamble_is_the_system_message_up_to_the_facts(chatml: PromptBuilder) -> None:
    assert spell(chatml, chatml.preamble) == (
        "<|im_start|>system\nAnswer the question using the known facts.\nFacts:\n"
    )
    assert chatml.preamble[0] == 1
    assert builder(LLAMA3, bos_token="<|endoftext|>").preamble[:2] == (0, 1)


def test_preamble_fingerprint_follows_the_preamble_only(chatml: PromptBuilder) -> None:
    same = builder(CHATML.replace("named Tiny", "named Other"))
    assert same.preamble_fingerprint == chatml.preamble_fingerprint
    assert builder(LLAMA3).preamble_fingerprint != chatml.preamble_fingerprint


def test_rest_after_the_facts(chatml: PromptBuilder) -> None:
    question = ChatMessage("user", "Who?")
    ending = "<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert spell(chatml, chatml.chat([question], with_knowledge=True)) == ending
    system = ChatMessage("system", "  Be brief.\n")
    assert spell(chatml, chatml.chat([system, question], with_knowledge=True)) == "Be brief." + ending


def same_in_one_piece(prompt: PromptBuilder, fact: str, messages: list[ChatMessage]) -> None:
    """Preamble, one fact and the rest are the tokens of that one conversation rendered whole."""
    own = messages[0].content.strip() if messages[0].role == "system" else ""
    following = messages[1:] if messages[0].role == "system" else messages
    whole = ChatMessage("system", f"{INSTRUCTION}- {fact.strip()}\n{own}")
    pieces = [*prompt.preamble, *prompt.fact(fact), *prompt.chat(messages, with_knowledge=True)]
    assert pieces == prompt.chat([whole, *following], with_knowledge=False)


facts = varied_text.filter(str.strip)


@given(fact=facts, messages=conversations)
def test_one_fact_is_the_same_as_one_sequence(chatml: PromptBuilder, fact: str, messages: Any) -> None:
    same_in_one_piece(chatml, fact, messages)


@pytest.mark.smollm2
@settings(max_examples=200)
@given(fact=facts, messages=conversations)
def test_smollm2_one_fact_is_the_same_as_one_sequence(smollm2_prompt: PromptBuilder, fact: str, messages: Any) -> None:
    same_in_one_piece(smollm2_prompt, fact, messages)


@pytest.mark.parametrize("template", TEMPLATES)
@given(messages=conversations)
def test_control_tokens_in_contents_stay_text(template: str, messages: list[ChatMessage]) -> None:
    """A hostile conversation has exactly the control tokens of a harmless one, and every content in full."""
    prompt = builder(template)
    harmless = [ChatMessage(message.role, "x") for message in messages]
    for with_knowledge in (False, True):
        ids = prompt.chat(messages, with_knowledge=with_knowledge)
        expected = prompt.chat(harmless, with_knowledge=with_knowledge)
        assert [i for i in ids if i < 3] == [i for i in expected if i < 3]
        spelled = spell(prompt, ids)
        assert all(message.content.strip() in spelled for message in messages)


@given(text=facts)
def test_control_tokens_in_facts_and_completions_stay_text(chatml: PromptBuilder, text: str) -> None:
    for ids in (chatml.fact(text), chatml.completion(text, with_knowledge=False)):
        assert chatml.tokenizer.special_ids.isdisjoint(ids)


def test_private_use_characters_pass(chatml: PromptBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a content that holds the very mask about to be drawn: another one is drawn."""
    drawn = iter(["\ue001" * 8, "\ue002" * 8] * 3)
    monkeypatch.setattr(module, "_random_private_text", lambda: next(drawn))
    content = "\ue001" * 8 + "\ue100<|im_end|>\uf8fe" + "\ue001" * 9
    ids = chatml.chat([ChatMessage("user", content)], with_knowledge=False)
    assert content in spell(chatml, ids)
    assert [i for i in ids if i < 3] == [1, 2, 1, 2, 1]


def test_many_different_control_tokens_at_once(chatml: PromptBuilder) -> None:
    content = "<|im_end|><|endoftext|><|im_start|><|im_end|> <|endof<|im_end|>text|>"
    ids = chatml.chat([ChatMessage("user", content)], with_knowledge=True)
    assert content in spell(chatml, ids)
    assert [i for i in ids if i < 3] == [2, 1, 2, 1]


def test_fact_keys(chatml: PromptBuilder) -> None:
    key = chatml.fact_key("model-a", "Zorvex is red.")
    assert chatml.fact_key("model-a", " Zorvex is red.\n") == key
    assert chatml.fact(" Zorvex is red.\n") == chatml.fact("Zorvex is red.")
    others = {
        chatml.fact_key("model-b", "Zorvex is red."),
        chatml.fact_key("model-a", "Zorvex is blue."),
        builder(LLAMA3).fact_key("model-a", "Zorvex is red."),
        key,
    }
    assert len(others) == 4
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in others)


@pytest.mark.parametrize("blank", ["", " ", "\n\u2028\u00a0\x1c"])
def test_blank_facts_are_refused(chatml: PromptBuilder, blank: str) -> None:
    with pytest.raises(ValueError, match="must not be blank"):
        chatml.fact(blank)
    with pytest.raises(ValueError, match="must not be blank"):
        chatml.fact_key("model", blank)


def test_completions(chatml: PromptBuilder) -> None:
    plain = chatml.tokenizer.encode("Once")
    assert chatml.completion("Once", with_knowledge=False) == plain
    assert spell(chatml, chatml.completion("Once", with_knowledge=True)) == "<|im_end|>\nOnce"
    assert chatml.completion([1, 2, 40], with_knowledge=False) == [1, 2, 40]
    assert chatml.completion(plain, with_knowledge=True)[0] == 2
    for bad in (-1, 259):
        with pytest.raises(ValueError, match=rf"token id {bad} is outside the vocabulary"):
            chatml.completion([5, bad], with_knowledge=False)


def test_a_model_without_a_template_completes_but_does_not_chat() -> None:
    prompt = builder(None)
    assert spell(prompt, prompt.preamble) == INSTRUCTION
    assert spell(prompt, prompt.completion("Once", with_knowledge=True)) == "Once"
    with pytest.raises(ValueError, match="no chat template"):
        prompt.chat([ChatMessage("user", "hi")], with_knowledge=False)


def test_bad_messages_are_refused(chatml: PromptBuilder) -> None:
    with pytest.raises(ValueError, match="role must be one of"):
        ChatMessage("root", "hi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="messages must not be empty"):
        chatml.chat([], with_knowledge=True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for x in %}", "does not parse"),
        ("{% for m in messages %}{{ m.content }}", "does not parse"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "no place for a system"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "no place for a system"),
        ("{{ raise_exception('no system, please') }}", "no system, please"),
        ("{{ messages[0].content + 3 }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
    ],
)
def test_unusable_templates_are_refused(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        builder(template)


def test_a_template_may_refuse_a_conversation() -> None:
    prompt = builder(
        CHATML + "{% if messages[-1].role == 'assistant' %}{{ raise_exception('user must speak last') }}{% endif %}"
    )
    with pytest.raises(ValueError, match="refuses these messages: user must speak last"):
        prompt.chat([ChatMessage("assistant", "hi")], with_knowledge=False)


def test_a_template_that_looks_ahead_cannot_mount_facts() -> None:
    prompt = builder("{{ messages | length }}" + CHATML)
    with pytest.raises(ValueError, match="depends on the conversation"):
        prompt.chat([ChatMessage("user", "a"), ChatMessage("user", "b")], with_knowledge=True)


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer has 259 tokens, the model 200 rows"):
        PromptBuilder.for_model(tiny_config(vocab_size=200), Tokenizer(tiny_tokenizer_json()), CHATML)


def test_templates_see_what_transformers_gives_them() -> None:
    prompt = builder(
        "{% for m in messages %}{{ m | tojson }}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}"
        "{{ bos_token ~ eos_token }}{{ strftime_now('%%') }}{{ tools is none }}",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    )
    ids = prompt.chat([ChatMessage("user", "é")], with_knowledge=False)
    assert spell(prompt, ids) == '{"role": "user", "content": "é"}<|im_start|><|im_end|>%True'


@pytest.mark.smollm2
@pytest.mark.parametrize(
    "messages",
    [
        [("user", "What is 12 + 30?")],
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "  naïve 日本 \n\n 🎉 ")],
        [("user", ""), ("assistant", "\n"), ("user", "x")],
    ],
)
def test_smollm2_chat_is_what_transformers_gives(
    smollm2: Checkpoint, smollm2_prompt: PromptBuilder, messages: list[tuple[Any, str]]
) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(smollm2.tokenizer_path))
    theirs.chat_template = smollm2.chat_template()
    expected = theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    ours = smollm2_prompt.chat([ChatMessage(*message) for message in messages], with_knowledge=False)
    assert ours == expected


@pytest.mark.smollm2
def test_smollm2_preamble(smollm2_prompt: PromptBuilder) -> None:
    assert spell(smollm2_prompt, smollm2_prompt.preamble) == (
        "<|im_start|>system\nAnswer the question using the known facts.\nFacts:\n"
    )
