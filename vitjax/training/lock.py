"""One writer a directory: a lock that dies with its process."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path

_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class WriterLock:
    """Holds `<directory>/lock` for this process until `release` or the process's end, however it ends.

    The kernel's lock on the file counts, not that the file exists: what a killed process leaves behind is free, and
    the next writer takes it over. The text inside says who holds it.
    """

    def __init__(self, directory: Path):
        """Takes the lock.

        Raises:
            ValueError: another writer has it.
        """
        path = directory / "lock"
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                logging.getLogger("vitjax").warning(
                    "%s: this file system has no locks; take care that only one run writes here", directory
                )
                return
            holder = _holder(path)
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise ValueError(
                f"{directory} is being written by {holder}; wait for it, end it, or choose another directory"
            ) from None
        own = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, (json.dumps(own) + "\n").encode(), 0)

    def release(self) -> None:
        """Lets the next writer in. The file stays: removing it would race with one who is just opening it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
