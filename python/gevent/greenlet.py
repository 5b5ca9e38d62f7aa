"""`Greenlet`, and waiting for or killing several of them."""
import sys
from collections.abc import Iterable
from typing import Any

from gevent._greenrust import Greenlet, GreenletExit, Waiter, get_hub, joinall
from gevent.timeout import Timeout

__all__ = ["Greenlet", "joinall", "killall"]


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
        (managed if hasattr(target, "kill") else raw).append(target)
    for target in managed:
        target.kill(exception, block=False)
    if not block:
        if raw:
            get_hub().loop.run_callback(_throw_into, raw, exception, None)
        return
    with Timeout.start_new(timeout):
        if raw:
            done: Waiter[None] = Waiter()
            get_hub().loop.run_callback(_throw_into, raw, exception, done)
            done.get()
        if managed:
            joinall(managed)
