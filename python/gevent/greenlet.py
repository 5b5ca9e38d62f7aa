"""`Greenlet`, and waiting for or killing several of them."""
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from gevent._greenrust import Greenlet, GreenletExit, Waiter, get_hub, join_greenlets
from gevent.hub import iwait
from gevent.timeout import Timeout

__all__ = ["Greenlet", "joinall", "killall"]

T = TypeVar("T")


def raise_error_of(greenlet: Any) -> None:
    """Raise what *greenlet* ended with, with its own traceback."""
    exc_info = getattr(greenlet, "exc_info", None)
    if exc_info and exc_info[1] is not None:
        raise exc_info[1].with_traceback(exc_info[2])
    raise greenlet.exception


def joinall(greenlets: Iterable[T], timeout: float | None = None, raise_error: bool = False,
            count: int | None = None) -> list[T]:
    """Wait until *greenlets* (or *count* of them) have ended, for at most *timeout* seconds. Switches.

    Returns those that have ended, in the order of their end. With *raise_error*, raises the error of the first that
    failed as soon as it fails.
    """
    greenlets = list(greenlets)
    if count is None and not raise_error:
        # One park for all of them, if all of them are of the native class.
        ended = join_greenlets(greenlets, timeout)
        if ended is not None:
            return ended
    ended = []
    for greenlet in iwait(greenlets, timeout=timeout, count=count):
        if raise_error and getattr(greenlet, "exception", None) is not None:
            raise_error_of(greenlet)
        ended.append(greenlet)
    return ended


def _throw_into(raw_greenlets: list[Any], exception: Any, done: Any) -> None:
    for target in raw_greenlets:
        if not target.dead:
            try:
                target.throw(exception)
            except BaseException:
                get_hub().handle_error(target, *sys.exc_info())
    if done is not None:
        done.switch(None)


def killall(greenlets: Iterable[Any], exception: Any = GreenletExit, block: bool = True,
            timeout: float | None = None) -> None:
    """Raise *exception* (a class or an instance) in all *greenlets*; raw greenlets and unstarted ones included.

    With *block*, waits until all are dead; when *timeout* seconds are over first, raises `Timeout`. An unstarted
    `Greenlet` never runs. Switches when it blocks.
    """
    managed, raw = [], []
    for target in greenlets:
        if hasattr(target, "kill"):
            managed.append(target)
        elif hasattr(target, "throw"):
            raw.append(target)
        else:
            raise AttributeError(f"not a greenlet: {target!r}")
    for target in managed:
        target.kill(exception, block=False)
    if not block:
        if raw:
            get_hub().loop.run_callback(_throw_into, raw, exception, None)
        return
    with Timeout.start_new(timeout):
        if raw:
            done: Waiter = Waiter()
            get_hub().loop.run_callback(_throw_into, raw, exception, done)
            done.get()
        if managed:
            joinall(managed)
