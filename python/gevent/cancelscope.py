"""Cancel scopes: blocks of code that can be ended, by a call or by a deadline, as trio has them.

`CancelScope` is the block itself; `move_on_after` and `fail_after` are blocks with a limit of time. In a cancelled
scope every wait raises `Cancelled`, each time anew, until the scope's block ends; a shield holds that back.
"""
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from gevent._greenrust import Cancelled, CancelScope

__all__ = [
    "CancelScope",
    "Cancelled",
    "TooSlowError",
    "fail_after",
    "fail_at",
    "move_on_after",
    "move_on_at",
]


class TooSlowError(TimeoutError):
    """The time of a `fail_after` or `fail_at` block was over before its code had ended."""


def _check(seconds: float) -> float:
    if not seconds >= 0:
        raise ValueError(f"seconds must be a number and not negative: {seconds!r}")
    return seconds


def move_on_at(deadline: float, *, shield: bool = False) -> CancelScope:
    """Return a cancel scope that is cancelled at *deadline*, in seconds of `time.monotonic()`."""
    return CancelScope(deadline=deadline, shield=shield)


def move_on_after(seconds: float, *, shield: bool = False) -> CancelScope:
    """Return a cancel scope that is cancelled *seconds* (a float) after its block began.

    The program goes on behind the block; `scope.cancelled_caught` tells whether the time was over. Raises ValueError
    for negative *seconds*.
    """
    return CancelScope(relative_deadline=_check(seconds), shield=shield)


@contextmanager
def _failing(scope: CancelScope) -> Iterator[CancelScope]:
    with scope:
        yield scope
    if scope.cancelled_caught:
        raise TooSlowError


def fail_at(deadline: float, *, shield: bool = False) -> AbstractContextManager[CancelScope]:
    """Return a context manager as `move_on_at`, that raises `TooSlowError` if the deadline ended its block."""
    return _failing(move_on_at(deadline, shield=shield))


def fail_after(seconds: float, *, shield: bool = False) -> AbstractContextManager[CancelScope]:
    """Return a context manager as `move_on_after`, that raises `TooSlowError` if the time was over.

    Entering it gives the cancel scope.
    """
    return _failing(move_on_after(seconds, shield=shield))
