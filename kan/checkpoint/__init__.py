"""Models on disk: our own format (`directory.py`), and other projects' files made into it (by `sources.py`)."""
