"""The standard library's `_thread` with greenlets for threads; for `gevent.monkey`."""
import _thread as _stdlib
import gc as _gc
import sys as _sys
import time as _time
import weakref as _weakref
from collections.abc import Callable
from types import TracebackType as _TracebackType
from typing import Any, Never

from gevent._greenrust import BoundedSemaphore, Greenlet, GreenletExit, getcurrent, sleep
from gevent._greenrust import get_hub_if_exists as _get_hub_if_exists
from gevent._greenrust import greenlet as _greenlet
from gevent._greenrust import local as _local  # noqa: F401 (patched into `_thread`)
from gevent._greenrust import running_thread as _running_thread
from gevent.exceptions import LoopExit

__target__ = "_thread"
__implements__ = [
    "allocate_lock",
    "get_ident",
    "exit",
    "LockType",
    "stack_size",
    "start_new_thread",
    "_local",
]
if _sys.version_info >= (3, 13):
    __implements__ += ["start_joinable_thread", "lock", "_ThreadHandle", "_make_thread_handle"]
__imports__ = [
    name
    for name in (
        "error",
        "TIMEOUT_MAX",
        "allocate",
        "exit_thread",
        "interrupt_main",
        "start_new",
        "get_native_id",
        "daemon_threads_allowed",
        "RLock",
        "set_name",
    )
    if hasattr(_stdlib, name)
]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = [name for name in __implements__ + __imports__ if name != "_local"]

_TIMEOUT_MAX: float = _stdlib.TIMEOUT_MAX
_original_stack_size = _stdlib.stack_size
_native_ident = _stdlib.get_ident


def get_ident(gr: Any = None) -> int:
    """Return a number that identifies the greenlet *gr* (the current one by default) while it lives."""
    return id(getcurrent() if gr is None else gr)


def _greenlets() -> list[Any]:
    """Return all greenlets that the garbage collector knows, hubs and those of ended threads included."""
    return [one for one in _gc.get_objects() if issubclass(type(one), _greenlet)]


def _root_of(greenlet: Any) -> Any:
    """Return the greenlet in which the thread of *greenlet* began."""
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet


def _native_ident_of(ident: int) -> int:
    """Return the number that the system has for the thread of the greenlet *ident*; *ident* if that is no greenlet."""
    greenlets = _greenlets()
    root = next((_root_of(one) for one in greenlets if get_ident(one) == ident), None)
    if root is None:
        return ident
    running = (_running_thread(one) for one in greenlets if _root_of(one) is root)
    return next((native for native in running if native is not None), ident)


class LockType(BoundedSemaphore):
    """A lock whose waiters are greenlets, with the interface of `_thread.lock`. It cannot be subclassed."""

    def __init__(self) -> None:
        super().__init__(1)

    def __init_subclass__(cls) -> Never:
        raise TypeError("type 'gevent.thread.LockType' is not an acceptable base type")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, waiting for at most *timeout* seconds (-1: without limit). Switches.

        Returns True when the lock was taken. Raises ValueError and OverflowError for an impossible *timeout*.
        """
        limit: float | None = None
        if timeout != -1:
            if not blocking:
                raise ValueError("can't specify a timeout for a non-blocking call")
            if timeout < 0:
                raise ValueError("timeout value must be a non-negative number")
            if timeout > _TIMEOUT_MAX:
                raise OverflowError("timestamp too large to convert to C PyTime_t")
            limit = timeout
        try:
            acquired = super().acquire(blocking, limit)
        except LoopExit:
            # Another thread holds it, and no greenlet of this one can go on.
            if blocking:
                raise
            acquired = False
        if not acquired and not blocking and getcurrent() is not _get_hub_if_exists():
            # Without this a loop that tries again and again would never let the holder run.
            sleep()
        return acquired

    def release(self) -> None:
        """Free the lock. Raises RuntimeError when it was not taken."""
        try:
            super().release()
        except ValueError:
            raise RuntimeError("release unlocked lock") from None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: _TracebackType | None) -> None:
        self.release()

    # `threading` calls these in a forked child, and on 3.11 and 3.12 for the locks that end threads.
    def _at_fork_reinit(self) -> None:
        """Make the lock free, as it is for the only greenlet that goes on in a forked child."""
        while not self.locked():
            super().acquire(False)
        super().release()

    acquire_lock = acquire
    release_lock = release
    locked_lock = BoundedSemaphore.locked


allocate_lock = lock = LockType


def _spawn(function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
    return Greenlet.spawn(function, *args, **(kwargs or {}))


def start_new_thread(function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> int:
    """Run ``function(*args, **kwargs)`` in a new greenlet; returns its `get_ident`."""
    return get_ident(_spawn(function, args, kwargs))


class _ThreadHandle:
    """What `threading.Thread` of Python 3.13 joins; stands for a greenlet."""

    _greenlet: Any = None
    _was_started = False
    #: The greenlet's `get_ident`, also after its end; None before its start.
    ident: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # As the class it stands for, ignores its arguments.
        pass

    def _set_greenlet(self, greenlet: Any) -> None:
        # Weak: the thread's greenlet refers to the thread, and `threading` relies on threads being freed at once.
        self._greenlet = _weakref.ref(greenlet)
        self.ident = get_ident(greenlet)
        self._was_started = True

    def _get_greenlet(self) -> Any:
        return self._greenlet() if self._greenlet is not None else None

    def is_done(self) -> bool:
        """Return True when the greenlet has ended."""
        greenlet = self._get_greenlet()
        return greenlet is None or greenlet.dead

    def join(self, timeout: float | None = -1) -> None:
        """Wait until the greenlet has ended, for at most *timeout* seconds. Switches."""
        if timeout is not None and timeout < 0:
            timeout = None
        if not self._was_started:
            raise RuntimeError("thread not started")
        greenlet = self._get_greenlet()
        if greenlet is None:
            return
        if greenlet is getcurrent():
            raise RuntimeError("Cannot join current thread")
        if hasattr(greenlet, "join"):
            greenlet.join(timeout)
            return
        # A raw greenlet, such as the main one, tells nobody of its end.
        end = None if timeout is None else _time.monotonic() + timeout
        while not self.is_done() and (end is None or _time.monotonic() < end):
            sleep(0.001)

    def _set_done(self, enter_hub: bool = True) -> None:
        """Count the greenlet as ended; with *enter_hub*, let those who join see it. Switches then."""
        if not self._was_started:
            raise RuntimeError("thread not started")
        self._greenlet = None
        if enter_hub:
            sleep(0.001)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} at {id(self):#x} greenlet={self._get_greenlet()!r}>"


def _make_thread_handle(*args: Any) -> _ThreadHandle:
    """Return a handle of the current greenlet; `threading` asks for one in a forked child and for dummy threads."""
    handle = _ThreadHandle()
    handle._set_greenlet(getcurrent())
    return handle


def start_joinable_thread(function: Callable[..., Any], handle: Any = None, daemon: bool = True) -> _ThreadHandle:
    """Run *function* in a new greenlet; returns *handle*, or a new one, that stands for it."""
    if handle is None:
        handle = _ThreadHandle()
    elif not isinstance(handle, _ThreadHandle):
        raise AssertionError("Must be a gevent thread handle")
    elif handle._was_started:
        raise RuntimeError("thread already started")
    handle._set_greenlet(_spawn(function))
    return handle


def exit() -> Never:
    """End the current greenlet."""
    raise GreenletExit


def stack_size(size: int | None = None) -> int | None:
    """Return the stack size of threads in bytes; *size* can only raise it, as greenlets have stacks of their own.

    Raises ValueError for a size below 32 KiB.
    """
    if size is None:
        return _original_stack_size()
    if size > _original_stack_size():
        return _original_stack_size(size)
    if size == 0:
        return 0
    if size < 32_768:
        raise ValueError(size)
    return None
