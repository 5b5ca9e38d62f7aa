"""The event loop; deprecated in gevent as a module, kept for the programs that import it.

There is one kind of loop, on the system's own poller; the names of libev's back ends are for reading only.
"""
import time as _time

from gevent._greenrust import (
    async_,
    callback,
    check,
    child,
    fork,
    idle,
    io,
    loop,
    prepare,
    signal,
    stat,
    timer,
    watcher,
)

__all__ = [
    "get_version",
    "get_header_version",
    "supported_backends",
    "recommended_backends",
    "embeddable_backends",
    "time",
    "loop",
    "async_",
    "callback",
    "check",
    "child",
    "fork",
    "idle",
    "io",
    "prepare",
    "signal",
    "stat",
    "timer",
    "watcher",
]

#: What an `io` watcher waits for.
READ = 1
WRITE = 2
#: Priorities of watchers; a higher one runs first.
MINPRI = -2
MAXPRI = 2

time = _time.time


def get_version() -> str:
    """Return the name of the loop."""
    return "greenrust"


def get_header_version() -> str:
    """Return the name of the loop that the package was built with."""
    return "greenrust"


def supported_backends() -> list[str]:
    """Return the pollers that the loop can use."""
    return ["epoll"]


def recommended_backends() -> list[str]:
    """Return the pollers that the loop uses."""
    return ["epoll"]


def embeddable_backends() -> list[str]:
    """Return the pollers that can be watched by another one."""
    return ["epoll"]
