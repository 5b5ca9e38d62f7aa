"""Waiting for several descriptors, while other greenlets run.

What is ready is asked of the system, by its own `select` and `poll`. To wait, each descriptor gets a watcher of the
loop, so that closing it ends the wait. For events other than readable and writable there is an epoll object, whose own
descriptor is watched like any other.
"""
import errno as _errno
import os as _os
import select as _stdlib
import time as _time
from collections.abc import Iterable
from typing import Any

from gevent._greenrust import Event, get_hub, sleep, wait_read, wait_write

__implements__ = ["select", "poll"]
_BLOCKING = ["epoll", "kqueue", "kevent", "devpoll"]
__imports__ = [name for name in dir(_stdlib) if not name.startswith("__") and name not in __implements__]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = ["error", "select", "poll"]

error = OSError

_original_select = _stdlib.select
_native_poll = _stdlib.poll
_native_epoll = _stdlib.epoll
_IN, _OUT, _PRI = _stdlib.POLLIN, _stdlib.POLLOUT, _stdlib.POLLPRI
_INT_MAX = (1 << 31) - 1
_ERR, _HUP, _NVAL = _stdlib.POLLERR, _stdlib.POLLHUP, _stdlib.POLLNVAL


class _NoDescriptorError(TypeError, ValueError):
    """What was given is no descriptor and has none: a TypeError for CPython, a ValueError for gevent."""


def _fileno(fileobj: Any) -> int:
    if isinstance(fileobj, int):
        fd = fileobj
    else:
        try:
            method = fileobj.fileno
        except AttributeError:
            raise _NoDescriptorError(f"argument must be an int, or have a fileno() method: {fileobj!r}") from None
        fd = method()
        if not isinstance(fd, int):
            raise _NoDescriptorError(f"fileno() of {fileobj!r} returned {fd!r}, which is not an integer")
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def _wait_for_any(interest: dict[int, int], timeout: float | None) -> None:
    """Wait until a descriptor of *interest* may be ready or is closed, for at most *timeout* seconds. Switches."""
    event = Event()
    loop = get_hub().loop
    watchers: list[Any] = []
    epoll = None
    try:
        for fd, mask in interest.items():
            watched = (mask & _IN and 1) | (mask & _OUT and 2)
            if watched:
                watchers.append(loop.io(fd, watched))
            if mask & ~(_IN | _OUT) or not watched:
                if epoll is None:
                    epoll = _native_epoll()
                    watchers.append(loop.io(epoll.fileno(), 1))
                epoll.register(fd, mask & ~(_IN | _OUT))
        for watcher in watchers:
            watcher.start(event.set)
        event.wait(timeout)
    finally:
        for watcher in watchers:
            watcher.close()
        if epoll is not None:
            epoll.close()


def _wait_for_one(fd: int, mask: int, timeout: float | None) -> None:
    """Wait until *fd* may be readable or writable, or is closed, for at most *timeout* seconds. Switches."""
    try:
        (wait_read if mask == _IN else wait_write)(fd, timeout)
    except TimeoutError:
        pass
    except OSError as error:
        # Closed by another greenlet, which the caller sees for itself.
        if error.errno != _errno.EBADF:
            raise


def _wait_until_ready(native: Any, interest: dict[int, int], timeout: float | None) -> list[tuple[int, int]]:
    """Return what the poll object *native* finds after a wait of at most *timeout* seconds. Switches."""
    deadline = None if timeout is None else _time.monotonic() + timeout
    while True:
        if len(interest) == 1 and (alone := next(iter(interest.items())))[1] in (_IN, _OUT):
            _wait_for_one(*alone, timeout)
        else:
            _wait_for_any(interest, timeout)
        ready = native.poll(0)
        if ready:
            return ready
        if deadline is not None:
            timeout = deadline - _time.monotonic()
            if timeout <= 0:
                return ready


def select(rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any],
           timeout: float | None = None) -> tuple[list[Any], list[Any], list[Any]]:
    """Wait as `select.select` does, for at most *timeout* seconds; returns the ready ones of each list. Switches.

    Raises ValueError for a negative time or descriptor, and OSError (EBADF) for a closed one. Not limited to
    descriptors below 1024.
    """
    if timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")
    # Those that can be read once only are kept.
    rlist, wlist, xlist = (each if isinstance(each, (list, tuple)) else list(each) for each in (rlist, wlist, xlist))
    try:
        at_once = _original_select(rlist, wlist, xlist, 0)
    except (TypeError, ValueError):
        # No descriptor, which is refused below, or one that is too large for select.
        is_looked_at = False
    else:
        is_looked_at = True
        if timeout == 0 or any(at_once):
            # A program that selects in a loop must not keep the others from running.
            sleep()
            return at_once
    readers = [(_fileno(obj), obj) for obj in rlist]
    writers = [(_fileno(obj), obj) for obj in wlist]
    exceptional = [(_fileno(obj), obj) for obj in xlist]
    interest: dict[int, int] = {}
    for wanted, event in ((readers, _IN), (writers, _OUT), (exceptional, _PRI)):
        for fd, _ in wanted:
            interest[fd] = interest.get(fd, 0) | event
    native = _native_poll()
    for fd, mask in interest.items():
        native.register(fd, mask)
    found: list[tuple[int, int]] = []
    if not is_looked_at:
        found = native.poll(0)
        if any(events & _NVAL for _, events in found):
            raise OSError(_errno.EBADF, _os.strerror(_errno.EBADF))
    if found or timeout == 0:
        sleep()
    else:
        found = _wait_until_ready(native, interest, timeout)
    get = dict(found).get
    # One that was closed in the meantime is ready, as in gevent: its next call says that it is closed.
    return (
        [obj for fd, obj in readers if get(fd, 0) & (_IN | _HUP | _ERR | _NVAL)],
        [obj for fd, obj in writers if get(fd, 0) & (_OUT | _ERR | _NVAL)],
        [obj for fd, obj in exceptional if get(fd, 0) & _PRI],
    )


class poll:
    """A poll object as `select.poll` makes, whose `poll` switches."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self._native = _native_poll()

    def register(self, fd: Any, eventmask: int = _IN | _PRI | _OUT) -> None:
        """Watch *fd* (a descriptor or an object with `fileno`) for the events of *eventmask*."""
        fd = _fileno(fd)
        self._native.register(fd, eventmask)
        self.fds[fd] = eventmask

    def modify(self, fd: Any, eventmask: int) -> None:
        """Change what *fd* is watched for. Raises FileNotFoundError when it is not watched."""
        fd = _fileno(fd)
        self._native.modify(fd, eventmask)
        self.fds[fd] = eventmask

    def unregister(self, fd: Any) -> None:
        """Stop watching *fd*. Raises KeyError when it is not watched."""
        fd = _fileno(fd)
        del self.fds[fd]
        self._native.unregister(fd)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Return pairs of descriptor and events, waiting for at most *timeout* milliseconds. Switches.

        None and negative times wait without limit. A closed descriptor has the event POLLNVAL. Raises OverflowError for
        times that are no C int.
        """
        if timeout is not None and not -_INT_MAX <= timeout <= _INT_MAX:
            raise OverflowError(f"timeout is too large: {timeout!r} milliseconds, at most {_INT_MAX}")
        seconds = None if timeout is None or timeout < 0 else timeout / 1000.0
        ready = self._native.poll(0)
        if ready or seconds == 0:
            # A program that polls in a loop must not keep the others from running.
            sleep()
            return ready
        return _wait_until_ready(self._native, self.fds, seconds)


def _gevent_do_monkey_patch(request: Any) -> None:
    """Patch `select`; if told to be aggressive, remove what would block the thread."""
    request.default_patch_items()
    if request.patch_kwargs.get("aggressive", True):
        request.remove_item(*_BLOCKING)
