"""Which tests a worker of pytest-xdist runs without the other."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

ONE_SERVER = ("tests/contract/", "tests/cli/")
"""All files of each of these directories ask one server of the session: two workers would start two."""


class ByFileOrServer(LoadFileScheduling):
    """`--dist loadfile`, but what shares a server stays together."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (directory for directory in ONE_SERVER if nodeid.startswith(directory))
        return next(shared, nodeid.split("::", 1)[0])
