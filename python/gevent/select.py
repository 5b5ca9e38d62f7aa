"""Waiting for several descriptors, while other greenlets run.

What is ready is asked of the system, by its own `poll`; to wait, the descriptors go into an epoll object, whose own
descriptor is then waited for like any other. So all kinds of events and any number of descriptors work.
"""
import errno as _errno
import os as _os
import select as _stdlib
import time as _time
from collections.abc import Iterable
from typing import Any

from gevent._greenrust import Event, sleep, wait_read, wait_write

__implements__ = ["select", "poll"]
_BLOCKING = ["epoll", "kqueue", "kevent", "devpoll"]
__imports__ = [name for name in dir(_stdlib) if not name.startswith("__") and name not in __implements__]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = ["error", "select", "poll"]

error = OSError

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
    """Wait until a descriptor of *interest* may be ready, for at most *timeout* seconds. Switches."""
    if not interest:
        if timeout is None:
            Event().wait()
        else:
            sleep(timeout)
        return
    try:
        if len(interest) == 1:
            ((fd, mask),) = interest.items()
            if mask == _IN:
                wait_read(fd, timeout)
                return
            if mask == _OUT:
                wait_write(fd, timeout)
                return
        with _native_epoll(len(interest)) as epoll:
            for fd, mask in interest.items():
                epoll.register(fd, mask)
            wait_read(epoll.fileno(), timeout)
    except TimeoutError:
        pass


def _poll_until_ready(native: Any, interest: dict[int, int], timeout: float | None) -> list[tuple[int, int]]:
    """Return what the poll object *native* finds, waiting for at most *timeout* seconds. Switches."""
    ready = native.poll(0)
    if ready or timeout == 0:
        # A program that polls in a loop must not keep the others from running.
        sleep()
        return ready
    deadline = None if timeout is None else _time.monotonic() + timeout
    while True:
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
    ready = dict(_poll_until_ready(native, interest, timeout))
    if any(events & _NVAL for events in ready.values()):
        raise OSError(_errno.EBADF, _os.strerror(_errno.EBADF))
    get = ready.get
    return (
        [obj for fd, obj in readers if get(fd, 0) & (_IN | _HUP | _ERR)],
        [obj for fd, obj in writers if get(fd, 0) & (_OUT | _ERR)],
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
        return _poll_until_ready(self._native, self.fds, seconds)


def _gevent_do_monkey_patch(request: Any) -> None:
    """Patch `select`; if told to be aggressive, remove what would block the thread."""
    request.default_patch_items()
    if request.patch_kwargs.get("aggressive", True):
        request.remove_item(*_BLOCKING)
