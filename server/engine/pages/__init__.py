"""Page content on disk, for every engine."""
