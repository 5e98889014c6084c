"""Backups of a log: one file that holds a whole version with all that is kept of its history, checked and sealed."""
