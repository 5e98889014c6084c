"""README's table of clients, made of the tests' marks: `python -m tests.clients.table` prints it.

    @pytest.mark.feature("LiteLLM", "chat", "streaming")

The tests are read, not imported: whoever only wants the table has none of the clients.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FEATURES = (
    "chat",
    "streaming",
    "embeddings",
    "forms",
    "tools",
    "streamed tools",
    "responses",
    "knowledge",
    "citations",
    "log probabilities",
)
CLIENTS = (
    "openai-python",
    "openai-node",
    "LangChain (Python)",
    "LangChain (JavaScript)",
    "LlamaIndex",
    "LiteLLM",
    "instructor",
    "pydantic-ai",
    "Agents SDK",
    "Vercel AI SDK",
    "lm-eval",
    "llm",
    "Java HttpClient",
    "fetch in Chromium",
)


def marked() -> Iterator[tuple[str, str]]:
    """(client, feature) of every mark. ValueError for one that the table has no room for."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.feature":
                client, *features = (ast.literal_eval(one) for one in node.args)
                if client not in CLIENTS or not features or not set(features) <= set(FEATURES):
                    raise ValueError(f"{path.name}:{node.lineno}: {client}, {features}: not in the table")
                yield from ((client, feature) for feature in features)


def table() -> str:
    """As Markdown, without a newline at its end."""
    cells = set(marked())
    rows = [("client", *FEATURES), ("---",) * (1 + len(FEATURES))]
    rows += [(client, *("✓" if (client, one) in cells else "" for one in FEATURES)) for client in CLIENTS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table())
