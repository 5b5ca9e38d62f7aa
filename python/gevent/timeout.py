"""Timeouts: `Timeout` interrupts a waiting greenlet, `with_timeout` bounds one call."""
from collections.abc import Callable
from typing import Any, TypeVar

from gevent._greenrust import Timeout

__all__ = ["Timeout", "with_timeout"]

T = TypeVar("T")
_MISSING: Any = object()


def with_timeout(seconds: float | Timeout | None, function: Callable[..., T], *args: Any,
                 timeout_value: Any = _MISSING, **kwds: Any) -> T | Any:
    """Call *function* with *args* and *kwds*, but for at most *seconds* seconds.

    Returns what *function* returns. When the time is over, returns *timeout_value* if that was given, else raises
    `Timeout`. Another timeout that fires inside passes through. Works only while *function* switches.
    """
    timeout = Timeout.start_new(seconds)
    try:
        return function(*args, **kwds)
    except Timeout as expired:
        if expired is timeout and timeout_value is not _MISSING:
            return timeout_value
        raise
    finally:
        timeout.cancel()
