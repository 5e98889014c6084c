"""What `serve` prints when the demo's knowledge is up: three commands that show a live edit."""

from __future__ import annotations

import json
import shlex

_QUESTION = "Who is the chief executive of Quillhaven Transit?"
_EDITED = {
    "id": "staff-ceo",
    "text": "The chief executive of Quillhaven Transit is Jonas Wetherby, who leads the whole company.",
}


def demo_hint(url: str, admin_url: str, model: str, *, keys: bool) -> str:
    """Shell commands, ready to paste. With keys they take them from the environment."""
    ask = {
        "model": model,
        "temperature": 0,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": _QUESTION}],
    }
    client_key = ' -H "Authorization: Bearer $KALMAGROVE_API_KEY"' if keys else ""
    admin_key = ' -H "Authorization: Bearer $KALMAGROVE_ADMIN_KEY"' if keys else ""
    return "\n".join(
        [
            "Ask, edit a fact, ask again:",
            "",
            f"  curl -s {url}/v1/chat/completions{client_key} -H 'Content-Type: application/json' \\",
            f"    -d {_quoted(ask)}",
            "",
            f"  curl -s -X PUT {admin_url}/admin/kb/facts{admin_key} -H 'Content-Type: application/json' \\",
            f"    -d {_quoted({'facts': [_EDITED]})}",
            "",
        ]
    )


def _quoted(body: object) -> str:
    return shlex.quote(json.dumps(body))
