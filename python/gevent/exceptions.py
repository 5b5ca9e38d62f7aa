"""Exceptions that the hub and the blocking calls raise.

`GreenletExit` and `error` (greenlet misuse) are native; the others carry no behaviour that the native module needs,
so it imports them from here.
"""
from typing import Any

from gevent._greenrust import GreenletExit

__all__ = ["LoopExit"]


class LoopExit(Exception):
    """Nothing is left that could ever wake the waiting greenlet: the event loop has ended.

    Raised in the main greenlet of the hub (and from there in whoever waits for it). Usual causes: a deadlock, or an
    object that belongs to another thread's hub. The arguments are a message, the hub, and a list that says who waits
    for what.
    """

    @property
    def hub(self) -> Any:
        """The hub whose loop ended, or None when the error was raised without one."""
        return self.args[1] if len(self.args) == 3 else None

    def __repr__(self) -> str:
        if len(self.args) != 3:
            return super().__repr__()
        message, hub, waiters = self.args
        lines = waiters.splitlines() if isinstance(waiters, str) else [str(waiter) for waiter in waiters]
        listed = "\n".join("\t\t" + line for line in lines) if lines else "\t\t(none)"
        return f"{message}\n\tHub: {hub}\n\tWaiting:\n{listed}"

    def __str__(self) -> str:
        return repr(self)


class BlockingSwitchOutError(AssertionError):
    """A blocking function was called from a callback of the event loop, which cannot wait for itself."""


class InvalidSwitchError(AssertionError):
    """A greenlet got control back from somewhere else than from what it waits for."""


class ConcurrentObjectUseError(AssertionError):
    """A second greenlet waits on an object that allows only one waiter at a time, such as one side of a socket."""


class InvalidThreadUseError(RuntimeError):
    """An object that is bound to one thread's hub was used from another thread."""


class HubDestroyed(GreenletExit):
    """Thrown into a hub to end its loop; raised only by `gevent.hub.Hub.destroy`."""

    def __init__(self, destroy_loop: bool) -> None:
        super().__init__(destroy_loop)
        self.destroy_loop = destroy_loop
