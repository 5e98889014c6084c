"""What can stand in the way of an experiment. Every message is for the person who runs it.

LabError
├── PlanError     options that contradict each other or name what does not exist
├── DataError     a data file that cannot be used
├── ResumeError   a run that cannot be continued
└── PlotError     a picture that cannot be drawn
"""

from __future__ import annotations


class LabError(Exception):
    """Any of them."""


class PlanError(LabError):
    """A plan that cannot be carried out; raised before anything is measured."""


class DataError(LabError):
    """A data file that cannot be used; the message names the file and, for a bad row, its line."""


class ResumeError(LabError):
    """A journal that cannot be continued; the message names it."""


class PlotError(LabError):
    """No picture can be drawn; the message says what is missing."""
