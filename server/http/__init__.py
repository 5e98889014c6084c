"""The HTTP side: everything that knows statuses, headers and OpenAI's shapes."""
