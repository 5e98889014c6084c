"""The life of page content and its files, for every engine.

life.py      wanted → made → read → forgotten: one state machine, without I/O
files.py     the files of one directory per stage, reconciled with the machine
sharing.py   whether other processes use the same directory
janitor.py   the thread on which files are written and deleted
"""
