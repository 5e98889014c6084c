"""What the server does, whoever asks: completions, knowledge, prompts. Knows no HTTP."""
