"""What of `threading` is replaced so that its threads are greenlets; for `gevent.monkey`.

The class `threading.Thread` itself is kept and changed in place, so that classes derived from it before patching work.
"""
import os as _os
import sys as _sys
import threading as _stdlib
import time as _time
import types as _types
import weakref as _weakref
from contextlib import suppress as _suppress
from typing import Any

from gevent._fork import forget_imports_of_others as _forget_imports_of_others
from gevent._fork import keep_locks_of_greenlets as _keep_locks_of_greenlets
from gevent._greenrust import RLock, getcurrent, local, sleep
from gevent.exceptions import LoopExit
from gevent.hub import get_hub
from gevent.thread import (
    _make_thread_handle,
    _native_ident,
    _ThreadHandle,
    allocate_lock,
    get_ident,
    start_joinable_thread,
    start_new_thread,
)

_SINCE_3_13 = _sys.version_info >= (3, 13)

__implements__ = ["local", "_allocate_lock", "Lock", "_DummyThread", "get_ident", "_CRLock"]
if _SINCE_3_13:
    __implements__ += ["_start_joinable_thread", "_ThreadHandle", "_make_thread_handle"]
else:
    __implements__ += ["_start_new_thread", "_set_sentinel"]
__extensions__: list[str] = []
__all__ = [
    "Lock",
    "RLock",
    "Thread",
    "Timer",
    "allocate_lock",
    "get_ident",
    "getcurrent",
    "local",
    "main_native_thread",
    "start_joinable_thread",
    "start_new_thread",
]

Lock = _allocate_lock = _set_sentinel = allocate_lock
_start_new_thread = start_new_thread
_start_joinable_thread = start_joinable_thread
# `threading` then uses its lock written in Python, over `_allocate_lock`.
_CRLock = None

Thread = _stdlib.Thread
Timer = _stdlib.Timer
_StdlibDummyThread = _stdlib._DummyThread
# What Python 3.13.0 to 3.13 and later call the handle.
_HANDLE = "_os_thread_handle" if hasattr(_stdlib.main_thread(), "_os_thread_handle") else "_handle"


def main_native_thread() -> Any:
    """Return the object of the main thread."""
    return _stdlib.main_thread()


class _DummyThread(_StdlibDummyThread):
    """What `current_thread` gives for a greenlet that `threading` did not start; forgotten when the greenlet ends."""

    def __init__(self) -> None:
        # Not the standard library's way: Python 3.13 ties a dummy to the data of the native thread, in which there
        # is only one, and takes a lock, which is impossible in the hub.
        Thread.__init__(self, name=_stdlib._newname("Dummy-%d"), daemon=True)
        self._started.set()
        self._set_ident()
        self._set_native_id()
        if _SINCE_3_13:
            setattr(self, _HANDLE, _make_thread_handle())
        greenlet = getcurrent()
        ident = get_ident(greenlet)
        _stdlib._active[ident] = self

        def forget(_: Any) -> None:
            _stdlib._active.pop(ident, None)

        rawlink = getattr(greenlet, "rawlink", None)
        if rawlink is not None:
            rawlink(forget)
        else:
            self._end_of_greenlet = _weakref.ref(greenlet, forget)


_original_set_tstate_lock = getattr(Thread, "_set_tstate_lock", None)


def _set_tstate_lock(self: Any) -> None:
    """Arrange that the end of the current greenlet is the end of the thread *self* (before Python 3.13).

    The interpreter releases the lock of a thread that ends; for a greenlet this does it.
    """
    _original_set_tstate_lock(self)

    def ended(_: Any) -> None:
        lock = self._tstate_lock
        if lock is not None:
            if lock.locked():
                lock.release()
            self._stop()

    # A raw greenlet tells nobody of its end: the main one, or what has become of it in a forked child.
    rawlink = getattr(getcurrent(), "rawlink", None)
    if rawlink is not None:
        rawlink(ended)


def _wait_for_tstate_lock(self: Any, block: bool = True, timeout: float = -1) -> None:
    """Wait for the end of the thread *self* (before Python 3.13), at most *timeout* seconds; negative: without limit.

    CPython's takes any exception that ends the wait for one that came after it, and the thread for ended (bpo-45274).
    Here a kill or a timeout ends the wait alone.
    """
    lock = self._tstate_lock
    if lock is not None and lock.acquire(block, timeout):
        lock.release()
        self._stop()


_original_delete = Thread._delete  # type: ignore[attr-defined]


def _delete(self: Any) -> None:
    """Forget the thread *self*; in the child of a fork it was forgotten then, while its greenlet goes on there."""
    with _suppress(KeyError):
        _original_delete(self)


def _patch_thread_class(patch_attribute: Any) -> None:
    patch_attribute(Thread, "_delete", _delete)
    patch_attribute(_stdlib._RLock, "_at_fork_reinit", _keep_locks_of_greenlets(_stdlib._RLock._at_fork_reinit))
    if not _SINCE_3_13:
        patch_attribute(Thread, "_set_tstate_lock", _set_tstate_lock)
        patch_attribute(Thread, "_wait_for_tstate_lock", _wait_for_tstate_lock)


def _adopt_main_thread() -> None:
    """Make the main greenlet be the main thread for `threading`, also for those who join it."""
    main = _stdlib.main_thread()
    native_ident = main.ident
    main._ident = get_ident()
    _stdlib._active.pop(native_ident, None)
    _stdlib._active[main._ident] = main
    if _SINCE_3_13:
        setattr(main, _HANDLE, _make_thread_handle())
    else:
        main._gevent_native_lock = main._tstate_lock
        main._tstate_lock = allocate_lock()
        main._tstate_lock.acquire()


class _ActiveThreads(dict[int, Any]):
    """`threading._active`, where a native thread that ran before patching also finds itself.

    It stands there by the system's number of it, and asks by that of its greenlet. While there is one, greenlets may
    wait for what it does, so the main loop is not at its end.
    """

    def __init__(self, active: dict[int, Any], natives: set[int]) -> None:
        super().__init__(active)
        self._natives = natives
        self._loop = get_hub().loop
        self._keeps_alive = self._loop.async_()
        self._keeps_alive.start(int)

    def _own_number(self, ident: int) -> int:
        own = _native_ident()
        return own if own in self._natives and ident == get_ident() and getcurrent().parent is None else ident

    def __missing__(self, ident: int) -> Any:
        own = self._own_number(ident)
        if own == ident or own not in self:
            raise KeyError(ident)
        return self[own]

    def __delitem__(self, ident: int) -> None:
        if ident not in self:
            ident = self._own_number(ident)
        super().__delitem__(ident)
        if ident in self._natives:
            self._natives.discard(ident)
            if not self._natives:
                self._loop.run_callback_threadsafe(self._keeps_alive.stop)


def _join_native_thread(thread: Any, timeout: float | None = None) -> None:
    """Wait for the end of a native thread that ran before patching, for at most *timeout* seconds. Switches."""
    if thread is _stdlib.current_thread():
        raise RuntimeError("cannot join current thread")
    end = None if timeout is None else _time.monotonic() + timeout
    pause = 0.001
    while thread.is_alive():
        left = pause if end is None else end - _time.monotonic()
        if left <= 0:
            return
        sleep(min(pause, left))
        pause = min(pause * 2, 0.05)


def _adopt_running_threads() -> None:
    """Have the native threads that run already know themselves, and be joined without blocking greenlets."""
    running = [thread for thread in _stdlib.enumerate() if thread is not _stdlib.main_thread()]
    if not running:
        return
    _stdlib._active = _ActiveThreads(_stdlib._active, {thread.ident for thread in running})
    for thread in running:
        thread.join = _types.MethodType(_join_native_thread, thread)


def _release_who_joins_main(main: Any) -> None:
    try:
        if _SINCE_3_13:
            getattr(main, _HANDLE)._set_done()
        else:
            main._tstate_lock.release()
            sleep()
    except BaseException:
        # Somebody killed the main greenlet meanwhile: at the end of the program nobody is left to catch that.
        get_hub().print_exception(getcurrent(), *_sys.exc_info())
    if not _SINCE_3_13:
        # Who joined has counted the thread as stopped; what follows expects it alive, with the interpreter's lock.
        main._is_stopped = False
        main._tstate_lock = main._gevent_native_lock
        main._gevent_native_lock = None


def _join_all_threads(main: Any) -> None:
    """Wait for the threads that are no daemons; Python 3.13 does it natively, where greenlets are not known."""
    _stdlib._SHUTTING_DOWN = True
    # A thread may wait for one of these calls, as those of concurrent.futures do.
    for call in reversed(_stdlib._threading_atexits):
        call()
    del _stdlib._threading_atexits[:]
    current = getcurrent()
    while True:
        waiting = [
            thread
            for thread in _stdlib.enumerate()
            if not thread.daemon and thread is not main and thread.is_alive() and thread.ident != get_ident(current)
        ]
        if not waiting:
            return
        for thread in waiting:
            thread.join()


class _EndedHandle:
    """The handle of the main thread while the interpreter ends it."""

    ident = None

    def is_done(self) -> bool:
        return False

    def _set_done(self) -> None:
        pass

    def join(self, timeout: float | None = None) -> None:
        pass


def _make_shutdown(original: Any) -> Any:
    """Return what the interpreter is to call at its end instead of *original*, in the main thread."""
    main = _stdlib.main_thread()

    def _shutdown() -> None:
        if not _SINCE_3_13 and main._gevent_native_lock is None:
            return
        _release_who_joins_main(main)
        get_hub().awaits_threads = False
        try:
            if _SINCE_3_13:
                setattr(main, _HANDLE, _EndedHandle())
                _join_all_threads(main)
            original()
        except LoopExit:
            # A thread waits for what cannot happen any more: the program ends without it.
            pass

    return _shutdown


class _ForkHooks:
    """Restores what `threading` knows of threads in a forked child, where only the current greenlet goes on."""

    _active: dict[int, Any]

    def before(self) -> None:
        self._active = dict(_stdlib._active)

    def after_in_child(self) -> None:
        ident = get_ident()
        if _SINCE_3_13:
            for other, thread in self._active.items():
                handle = getattr(thread, _HANDLE, None)
                if other != ident and isinstance(handle, _ThreadHandle) and handle._was_started:
                    handle._set_done(enter_hub=False)
        main = _stdlib._MainThread()
        main._ident = ident
        if _SINCE_3_13:
            setattr(main, _HANDLE, _make_thread_handle())
        else:
            main._gevent_native_lock = main._tstate_lock
        _stdlib._active.clear()
        _stdlib._active[ident] = main
        _stdlib._main_thread = main
        _forget_imports_of_others()


_fork_hooks = _ForkHooks()


def _gevent_will_monkey_patch(native_module: Any, items: Any, warn: Any) -> None:
    """Prepare `threading`: the main greenlet takes the place of the main thread."""
    if _stdlib.current_thread() is not main_native_thread():
        warn(
            "Monkey-patching outside the main native thread. Some APIs will not be available. "
            "Expect a KeyError to be printed at shutdown."
        )
        return
    _os.register_at_fork(before=_fork_hooks.before, after_in_child=_fork_hooks.after_in_child)
