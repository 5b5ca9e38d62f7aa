"""Selectors whose waiting lets other greenlets run.

The system's own selector keeps the descriptors; its descriptor is waited for like any other.
"""
import errno as _errno
import selectors as _stdlib
import sys as _sys
from collections.abc import Mapping
from typing import Any

from gevent import select as _select
from gevent._greenrust import get_hub, sleep, wait_read

__implements__ = ["DefaultSelector"]
__imports__ = [name for name in dir(_stdlib) if not name.startswith("__") and name not in __implements__]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = ["DefaultSelector", "GeventSelector"]

_NativeSelector: Any = _stdlib.DefaultSelector
_BLOCKING = ["EpollSelector", "KqueueSelector", "DevpollSelector"]


class GeventSelector(_NativeSelector):
    """A selector as `selectors.DefaultSelector`, whose `select` switches."""

    #: The hub of the thread that made it.
    hub: Any = None

    def __init__(self, hub: Any = None) -> None:
        super().__init__()
        self.hub = hub if hub is not None else get_hub()

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        """Watch *fileobj* for *events*; returns its key. Raises ValueError when its descriptor is closed."""
        try:
            return super().register(fileobj, events, data)
        except OSError as error:
            # EINVAL: the closed one's number is now that of the selector itself.
            if error.errno not in (_errno.EBADF, _errno.EINVAL):
                raise
            raise ValueError(f"Invalid file descriptor: {fileobj!r} is closed") from None

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """Return pairs of key and events, waiting for at most *timeout* seconds. Switches.

        None waits without limit, 0 and negative times do not wait.
        """
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            sleep()
            return ready
        try:
            wait_read(self.fileno(), timeout)
        except TimeoutError:
            return []
        return super().select(0)

    def get_map(self) -> Mapping[Any, Any]:
        """Return the registered objects with their keys; None after `close`."""
        return super().get_map()


DefaultSelector = GeventSelector


def _select_by_us(self: Any, r: Any, w: Any, _: Any, timeout: float | None = None) -> Any:
    return _select.select(r, w, w if _sys.platform == "win32" else [], timeout)


def _gevent_do_monkey_patch(request: Any) -> None:
    """Patch `selectors`, with the classes that stay made to wait by `gevent.select`."""
    request.default_patch_items()
    request.patch_attribute(_stdlib.SelectSelector, "_select", _select_by_us)
    request.patch_attribute(_stdlib.PollSelector, "_selector_cls", _select.poll)
    if request.patch_kwargs.get("aggressive", True):
        request.remove_item(*_BLOCKING)
