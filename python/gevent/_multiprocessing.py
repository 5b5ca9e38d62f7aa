"""Makes `multiprocessing` cooperative, for `gevent.monkey`: greenlets wait where it would block the thread.

Its processes talk by pipes and sockets, share semaphores of the system, and are waited for by their pid. None of these
is reached by patching `socket`, `threading` and `os`, and a pool of processes that greenlets manage stops as soon
as one of them blocks the thread of all. So the classes of `multiprocessing` are changed in place:

- `connection.Connection` reads and writes only what does not block. Descriptors stay blocking, as other processes share
  them, which need not be patched.
- The semaphores of `synchronize` are tried again and again, at growing intervals: the system offers no descriptor for
  them. Between the greenlets of one process a release wakes who waits at once.
- A process that was forked goes on with one greenlet alone, as it would with one thread alone.
"""
import gc as _gc
import os as _os
import select as _select
import socket as _socket
import stat as _stat
import sys as _sys
import time as _time
from typing import Any

from gevent._fork import leave_alone
from gevent._greenrust import get_hub_if_exists, getcurrent, sleep, wait_read, wait_write
from gevent.event import Event
from gevent.lock import RLock
from gevent.monkey import get_original
from gevent.os import _read as _os_read
from gevent.os import _write
from gevent.selectors import GeventSelector

__all__ = ["PATCHES"]

#: What `when_imported` is to call for which module.
PATCHES: dict[str, Any] = {}

_poll = get_original("select", "poll")
_Socket = get_original("socket", "SocketType")
# A pipe that is writable takes as much without blocking, says POSIX of PIPE_BUF: Linux' value.
_PIPE_CHUNK = 4096
# How long a semaphore that another process holds is left alone between two attempts, in seconds.
_FIRST_INTERVAL_S = 0.0005
_LONGEST_INTERVAL_S = 0.02


def _patches(module_name: str) -> Any:
    def register(function: Any) -> Any:
        PATCHES[module_name] = function
        return function

    return register


def _in_hub() -> bool:
    return getcurrent() is get_hub_if_exists()


# -- connections --------------------------------------------------------------------------------------------


def _is_ready(descriptor: int, event: int) -> bool:
    poll = _poll()
    poll.register(descriptor, event)
    return bool(poll.poll(0))


def _recv(self: Any, size: int, read: Any = None) -> Any:
    """Read *size* bytes into a BytesIO. Switches. Raises EOFError at the end."""
    from io import BytesIO

    buffer = BytesIO()
    remaining = size
    while remaining > 0:
        while not _is_ready(self._handle, _select.POLLIN):
            wait_read(self._handle)
            self._check_closed()
        try:
            chunk = _os_read(self._handle, remaining)
        except BlockingIOError:
            # Another reader was quicker, and somebody has made the descriptor non-blocking.
            continue
        if not chunk:
            if remaining == size:
                raise EOFError
            raise OSError("got end of file during message")
        buffer.write(chunk)
        remaining -= len(chunk)
    return buffer


def _send_some(descriptor: int, is_socket: bool, data: Any) -> int:
    """Write what of *data* can be written without blocking; returns how many bytes, 0 when the descriptor is full."""
    if is_socket:
        borrowed = _Socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=descriptor)
        try:
            return borrowed.send(data, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        finally:
            borrowed.detach()
    if not _is_ready(descriptor, _select.POLLOUT):
        return 0
    try:
        return _write(descriptor, data[:_PIPE_CHUNK])
    except BlockingIOError:
        return 0


def _send(self: Any, buf: Any, write: Any = None) -> None:
    """Write all of *buf*. Switches when the other side reads slowly."""
    rest = memoryview(buf)
    is_socket = _stat.S_ISSOCK(_os.fstat(self._handle).st_mode)
    while rest:
        written = _send_some(self._handle, is_socket, rest)
        if written:
            rest = rest[written:]
        else:
            wait_write(self._handle)
            self._check_closed()


@_patches("multiprocessing.connection")
def _patch_connection(module: Any) -> None:
    Connection = module.Connection
    make = Connection.__init__

    def __init__(self: Any, handle: Any, *args: Any, **kwargs: Any) -> None:
        make(self, handle, *args, **kwargs)
        # A descriptor that was a socket of ours is non-blocking, and the process at its other end may share it.
        if not _os.get_blocking(self._handle):
            _os.set_blocking(self._handle, True)

    Connection.__init__ = __init__
    Connection._recv = _recv
    Connection._send = _send
    Connection._read = staticmethod(_os_read)
    module._WaitSelector = GeventSelector


# -- semaphores ---------------------------------------------------------------------------------------------


class _Acquirer:
    """Acquires and releases one semaphore of the system for the greenlets of this process."""

    __slots__ = ("_is_recursive", "_mutex", "_pid", "_released", "_semaphore")

    def __init__(self, semaphore: Any, is_recursive: bool) -> None:
        self._semaphore = semaphore
        self._is_recursive = is_recursive
        self._mutex = RLock() if is_recursive else None
        self._pid = _os.getpid()
        self._released: Any = None

    def _greenlets_lock(self) -> Any:
        """Return the lock among this process's greenlets: to the system they are one thread, which owns it or not."""
        if self._pid != _os.getpid():
            self._mutex, self._released, self._pid = RLock(), None, _os.getpid()
        return self._mutex

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the semaphore, waiting for at most *timeout* seconds (None: without limit). Switches.

        Returns True when it was taken.
        """
        end = None
        if not block:
            timeout = 0
        if timeout is not None:
            timeout = max(timeout, 0)
            end = _time.monotonic() + timeout
        if not self._is_recursive:
            return self._acquire_semaphore(timeout, end)
        mutex = self._greenlets_lock()
        if not mutex.acquire(timeout != 0, timeout):
            return False
        taken = False
        try:
            taken = self._acquire_semaphore(timeout, end)
        finally:
            if not taken:
                mutex.release()
        return taken

    def _acquire_semaphore(self, timeout: float | None, end: float | None) -> bool:
        semaphore = self._semaphore
        interval = _FIRST_INTERVAL_S
        while not semaphore.acquire(False):
            pause = interval
            if end is not None:
                pause = min(pause, end - _time.monotonic())
                if pause <= 0:
                    if timeout == 0 and not _in_hub():
                        # Whoever tries in a loop lets the holder run.
                        sleep()
                    return False
            if self._released is None:
                self._released = Event()
            self._released.clear()
            self._released.wait(pause)
            interval = min(interval * 2, _LONGEST_INTERVAL_S)
        return True

    def release(self) -> None:
        """Give the semaphore back. Raises ValueError, or AssertionError for an RLock, when it was not taken."""
        if self._is_recursive:
            mutex = self._greenlets_lock()
            if not mutex._is_owned():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            self._semaphore.release()
            mutex.release()
        else:
            self._semaphore.release()
        if self._released is not None:
            self._released.set()


@_patches("multiprocessing.synchronize")
def _patch_synchronize(module: Any) -> None:
    SemLock = module.SemLock

    def _make_methods(self: Any) -> None:
        acquirer = _Acquirer(self._semlock, self._semlock.kind == module.RECURSIVE_MUTEX)
        self.acquire, self.release = acquirer.acquire, acquirer.release

    def __enter__(self: Any) -> bool:
        return self.acquire()

    def __exit__(self: Any, *exc_info: Any) -> None:
        self.release()

    SemLock._make_methods = _make_methods
    SemLock.__enter__ = __enter__
    SemLock.__exit__ = __exit__
    # Those that exist already, and the conditions that took their methods.
    found = _gc.get_objects()
    for one in found:
        if issubclass(type(one), SemLock):
            one._make_methods()
    for one in found:
        if type(one) is module.Condition:
            one._make_methods()


# -- processes ----------------------------------------------------------------------------------------------


@_patches("multiprocessing.popen_fork")
def _patch_popen_fork(module: Any) -> None:
    Popen = module.Popen
    launch = Popen._launch

    def _launch(self: Any, process: Any) -> Any:
        run = process._bootstrap

        def _bootstrap(*args: Any, **kwargs: Any) -> Any:
            del process._bootstrap
            leave_alone()
            return run(*args, **kwargs)

        process._bootstrap = _bootstrap
        try:
            return launch(self, process)
        finally:
            process.__dict__.pop("_bootstrap", None)

    Popen._launch = _launch


@_patches("multiprocessing.popen_forkserver")
def _patch_popen_forkserver(module: Any) -> None:
    Popen = module.Popen
    poll = Popen.poll
    # Only the first reads a status from the pipe, and `poll` may switch before it reads.
    reading = RLock()

    def poll_alone(self: Any, flag: int = _os.WNOHANG) -> Any:
        if self.returncode is None and not flag & _os.WNOHANG and not _is_ready(self.sentinel, _select.POLLIN):
            wait_read(self.sentinel)
        with reading:
            return poll(self, flag)

    Popen.poll = poll_alone


# -- the way of starting ------------------------------------------------------------------------------------


@_patches("multiprocessing.context")
def _patch_context(module: Any) -> None:
    """Have processes be forked unless the program says otherwise, as gevent promises: Python 3.14 would not."""
    default = module._default_context
    if _sys.version_info >= (3, 14) and _sys.platform != "win32" and default._actual_context is None:
        default._default_context = module._concrete_contexts["fork"]
