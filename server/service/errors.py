"""What the service refuses, and why. It knows no HTTP: `server/http/errors.py` says what status each of them becomes.

ServiceError
├─ InvalidRequest       the request is wrong; sending it again will not help
│  └─ ContextTooLong    it has more text than the model or the encoder can read
├─ NoSuchResponse       there is no such response, or it is another key's
├─ NotAllowed           the caller may not do this
├─ VersionUnavailable   the knowledge is not yet at the version asked for
├─ Overloaded           too much waits already; later it may fit
└─ DeadlinePassed       it took longer than a request may take
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of everything the service refuses on purpose."""


class InvalidRequest(ServiceError):
    """`param` is the field of the client's request, `code` a short name of what is wrong with it."""

    def __init__(self, message: str, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextTooLong(InvalidRequest):
    """What was sent, with what has to stand beside it, exceeds the model's window or the encoder's."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, param, "context_length_exceeded")


class NoSuchResponse(ServiceError):
    """It never was, is gone, or belongs to another key: nobody is told which."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"There is no response {response_id[:80]!r}.")
        self.response_id = response_id


class NotAllowed(ServiceError):
    """The caller's key is bound to namespaces. `param`: the field that says more than it may; None: no field."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class VersionUnavailable(ServiceError):
    """The published version is older than the one asked for, and stayed so."""


class Overloaded(ServiceError):
    """A bounded queue is full. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlinePassed(ServiceError):
    """Whatever the request held has been given back."""
