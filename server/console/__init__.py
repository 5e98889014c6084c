"""The page at /console that asks, edits and shows what changed. `static/` is served as it is: nothing is built."""
