"""SCAN as conversations: one token a word, and a chat template.

    <|im_start|>user jump twice<|im_end|><|im_start|>assistant I_JUMP I_JUMP<|im_end|>

Every word has the space before it in its token, the first one too: so a word is the same token wherever it stands. All
bytes are tokens as well: a text in other words can be read, though nothing was learned of it. Facts teach what a verb
means: "dax means I_RUN".
"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from kan.prompt import INSTRUCTION
from lab.questions.scan import DIRECTIONS, REPEATS, VERBS

NEW_VERBS = ("dax", "wif", "lug", "zup")
"""They mean nothing but what a fact says (the words are those of Lake, Linzen and Baroni, 2019)."""
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)

_WORDS = r" ?\w+|[^\w\s]|\s"
"""A word with the space before it, a sign, or one character of white space."""


def vocabulary() -> dict[str, int]:
    """Spelling in the byte-level alphabet -> id: control tokens, then words, then bytes."""
    words = [_spelled(word) for word in _words()]
    tokens = (*SPECIAL_TOKENS, *words, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def tokenizer_json() -> str:
    """A `tokenizer.json` of the `tokenizers` library: the words whole, anything else byte by byte."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary(), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    text: str = tokenizer.to_str()
    return text


def tokens_of_cycles(generators: Sequence[Sequence[Sequence[str]]]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Cycles of words as cycles of tokens, for `KANConfig.group_action`. Raises ValueError for a word that is none."""
    known = vocabulary()

    def token(word: str) -> int:
        if (index := known.get(_spelled(f" {word}"))) is None:
            raise ValueError(f"{word!r} is no word of the vocabulary")
        return index

    return tuple(tuple(tuple(map(token, cycle)) for cycle in cycles) for cycles in generators)


def meaning(verb: str, action: str) -> str:
    """The fact that teaches it."""
    return f"{verb} means {action}"


def reply(actions: Sequence[str]) -> str:
    """What the assistant says, with the space before it that the first word has, too."""
    return "".join(f" {action}" for action in actions)


def _words() -> list[str]:
    """Commands, actions, and what stands around them: the roles, the instruction, a fact's line."""
    spoken = [*VERBS, *NEW_VERBS, "turn", *DIRECTIONS, "opposite", "around", "and", "after"]
    spoken += [repeat.strip() for repeat in REPEATS if repeat]
    spoken += [*VERBS.values(), *DIRECTIONS.values(), "means"]
    around = ["system", "user", "assistant", "Facts"]
    instruction = INSTRUCTION.partition(".")[0].split()
    return [*(f" {word}" for word in (*spoken, *instruction)), *around]


def _spelled(word: str) -> str:
    return word.replace(" ", "Ġ")
