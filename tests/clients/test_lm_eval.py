"""lm-evaluation-harness: answers that are generated, and log probabilities of texts that are given."""

from __future__ import annotations

import pytest

from tests.clients.ticket import MODEL, QUESTION

instances = pytest.importorskip("lm_eval.api.instance")
models = pytest.importorskip("lm_eval.models.openai_completions")
pytestmark = pytest.mark.slow


@pytest.mark.feature("lm-eval", "chat")
def test_generate_until(url: str) -> None:
    model = models.LocalChatCompletion(base_url=f"{url}/chat/completions", model=MODEL, max_retries=1)
    question = model.apply_chat_template([{"role": "user", "content": QUESTION}])  # as --apply_chat_template does
    arguments = (question, {"until": ["\n\n"], "max_gen_toks": 8})
    request = instances.Instance("generate_until", {}, arguments, 0)
    (said,) = model.generate_until([request])
    assert isinstance(said, str)
