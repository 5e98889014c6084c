"""Requests as pydantic models (checked, strict, unknown fields refused) and responses as typed dictionaries."""
