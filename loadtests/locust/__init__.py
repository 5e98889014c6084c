"""Scenarios for Locust: the server under clients of many kinds at once, with Locust's own reports."""
