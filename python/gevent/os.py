"""The parts of `os` that wait: processes and descriptors.

`fork`, `forkpty`, `posix_spawn` and `waitpid` work together: the event loop watches a child that they made, so that
waiting for it lets other greenlets run. The `nb_` functions read and write descriptors that do not block, the `tp_`
functions do it for any descriptor, in a thread.
"""
import errno
import fcntl
import os as _os
import sys as _sys
import time as _time
import warnings
from collections.abc import Callable
from typing import Any

from gevent._config import config
from gevent._greenrust import get_hub, get_hub_if_exists, tell_child_watchers, wait_read, wait_write
from gevent.hub import reinit

__implements__ = ["fork", "forkpty", "close"]
__extensions__ = [
    "tp_read",
    "tp_write",
    "make_nonblocking",
    "nb_read",
    "nb_write",
    "fork_gevent",
    "fork_and_watch",
    "forkpty_gevent",
    "forkpty_and_watch",
]
if config.disable_watch_children:
    __extensions__.append("waitpid")
else:
    __implements__ += ["waitpid", "posix_spawn", "posix_spawnp"]

__imports__ = [
    name
    for name in dir(_os)
    if not name.startswith("__") and name not in __implements__ and name not in __extensions__
]
globals().update({name: getattr(_os, name) for name in __imports__})

__all__ = list(__implements__ + __extensions__)

# The functions of the system, also after patching.
_read = _os.read
_write = _os.write
_close = _os.close
_raw_fork = _os.fork
_raw_forkpty = _os.forkpty
_raw_posix_spawn = _os.posix_spawn
_raw_posix_spawnp = _os.posix_spawnp
_waitpid = _os.waitpid

_WOULD_BLOCK = (errno.EAGAIN, errno.EINTR)


def close(fd: int) -> None:
    """Close the descriptor *fd*; greenlets that wait for it are woken with EBADF."""
    hub = get_hub_if_exists()
    if hub is not None:
        # The poller knows descriptors by number: it has to forget this one before the system can reuse it.
        hub.loop.closing_fd(fd)
    _close(fd)


def make_nonblocking(fd: int) -> bool | None:
    """Make the descriptor *fd* non-blocking; returns True if it was not yet."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL, 0)
    if flags & _os.O_NONBLOCK:
        return None
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | _os.O_NONBLOCK)
    return True


def nb_read(fd: int, n: int) -> bytes:
    """Read up to *n* bytes from the non-blocking descriptor *fd*; b"" at the end. Switches while there are none."""
    while True:
        try:
            return _read(fd, n)
        except OSError as error:
            if error.errno not in _WOULD_BLOCK:
                raise
        wait_read(fd)


def nb_write(fd: int, buf: Any) -> int:
    """Write from *buf* to the non-blocking descriptor *fd*; returns how many bytes. Switches while it is full."""
    while True:
        try:
            return _write(fd, buf)
        except OSError as error:
            if error.errno not in _WOULD_BLOCK:
                raise
        wait_write(fd)


def tp_read(fd: int, n: int) -> bytes:
    """Read up to *n* bytes from *fd* in a thread of the hub's pool. Switches."""
    return get_hub().threadpool.apply(_read, (fd, n))


def tp_write(fd: int, buf: Any) -> int:
    """Write *buf* to *fd* in a thread of the hub's pool; returns how many bytes. Switches."""
    return get_hub().threadpool.apply(_write, (fd, buf))


# -- children -----------------------------------------------------------------------------------------------

# pid -> the running watcher, or (pid, status, time of death) until someone asks for the status.
_watched_children: dict[int, Any] = {}
# Those of them whose status `waitpid` has returned before their watcher was called.
_told_early: set[int] = set()


def _forget_children() -> None:
    # In the child of a fork: the parent's children are not its own.
    _watched_children.clear()
    _told_early.clear()


_os.register_at_fork(after_in_child=_forget_children)


def _ignore_child() -> None:
    pass


# Called after the death of a watched child; `gevent.signal` puts its SIGCHLD handling here.
_on_child_hook: Callable[[], Any] = _ignore_child


def _reap_children(timeout: float = 60.0) -> None:
    """Forget the children that died more than *timeout* seconds ago and whose status nobody has asked for."""
    oldest = _time.monotonic() - timeout
    for pid in [pid for pid, state in _watched_children.items() if isinstance(state, tuple) and state[2] < oldest]:
        del _watched_children[pid]


def _on_child(watcher: Any, callback: Callable[[Any], Any] | None) -> None:
    # Runs in the hub.
    watcher.stop()
    try:
        if watcher.pid in _told_early:
            _told_early.discard(watcher.pid)
            _watched_children.pop(watcher.pid, None)
        else:
            _watched_children[watcher.pid] = (watcher.pid, watcher.rstatus, _time.monotonic())
        if callback is not None:
            callback(watcher)
        _on_child_hook()
        _reap_children()
    finally:
        watcher.close()


def _watch_child(pid: int, callback: Callable[[Any], Any] | None = None, loop: Any = None, ref: bool = False) -> None:
    loop = loop or get_hub().loop
    watcher = loop.child(pid, ref=ref)
    _told_early.discard(pid)
    _watched_children[pid] = watcher
    watcher.start(_on_child, watcher, callback)


def _wait_for_unwatched(pid: int) -> tuple[int, int]:
    """Wait for a child that others have made: a C extension, or `multiprocessing`."""
    found = _waitpid(pid, _os.WNOHANG)
    # Late in the end of the interpreter no hub runs any more.
    while not found[0] and not _sys.is_finalizing():
        try:
            descriptor = _os.pidfd_open(pid)
        except OSError:
            break
        try:
            wait_read(descriptor)
        finally:
            _close(descriptor)
        found = _waitpid(pid, _os.WNOHANG)
    return found if found[0] else _waitpid(pid, 0)


def _note_returned(pid: int) -> None:
    """Let nobody be told a second time that the child *pid* has ended, but its own watchers."""
    state = _watched_children.get(pid)
    if isinstance(state, tuple):
        del _watched_children[pid]
    elif state is not None:
        _told_early.add(pid)


def _wait_for_watched(pid: int) -> tuple[int, int]:
    """Wait for the child *pid*, or with 0 for any child."""
    # A watcher calls one function only, so this greenlet needs one of its own. All are told of the death.
    hub = get_hub()
    watcher = hub.loop.child(pid, False)
    try:
        hub.wait(watcher)
        found = watcher.rpid, watcher.rstatus
    finally:
        watcher.stop()
        watcher.close()
    _note_returned(found[0])
    return found


def _ask_for_some(pid: int, options: int) -> tuple[int, int]:
    """Ask the system for any child, or for one of a process group, and let its watchers know of the answer."""
    try:
        found, status = _waitpid(pid, options)
    except ChildProcessError:
        if pid == -1 and options & _os.WNOHANG and _watched_children:
            return 0, 0     # somebody else has taken its status; the loop will tell
        raise
    if found and (_os.WIFEXITED(status) or _os.WIFSIGNALED(status)):
        _note_returned(found)
        tell_child_watchers(found, status)
    return found, status


def waitpid(pid: int, options: int) -> tuple[int, int]:
    """Wait for the child *pid* as `os.waitpid` does; returns its pid and status.

    Switches while the child, or (with -1 and no options) any child, is running. Everything else goes to the system and
    may block the thread: process groups, and options other than WNOHANG.
    """
    if pid == -1:
        dead = [state for state in _watched_children.values() if isinstance(state, tuple)]
        if dead:
            pid = min(dead, key=lambda state: state[2])[0]
        elif options == 0:
            if not _watched_children:
                # Raises ChildProcessError if there is none.
                _os.waitid(_os.P_ALL, 0, _os.WEXITED | _os.WNOHANG | _os.WNOWAIT)
            return _wait_for_watched(0)
    if pid <= 0:
        return _ask_for_some(pid, options)
    state = _watched_children.get(pid)
    if state is None:
        return _waitpid(pid, options) if options else _wait_for_unwatched(pid)
    if isinstance(state, tuple):
        del _watched_children[pid]
        return state[:2]
    if state.rpid:
        # It has ended, and its watcher is about to be called; a new one would wait for ever.
        _told_early.add(pid)
        return state.rpid, state.rstatus
    if options & _os.WNOHANG:
        return 0, 0
    return _wait_for_watched(pid)


def fork_gevent() -> int:
    """Fork, and make the hub usable in the child; the child is not watched."""
    with warnings.catch_warnings():
        # CPython warns of threads; the thread pool's are replaced in the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = _raw_fork()
    if not pid:
        reinit()
    return pid


def forkpty_gevent() -> tuple[int, int]:
    """Fork on a new terminal, and make the hub usable in the child; the child is not watched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid, master_fd = _raw_forkpty()
    if not pid:
        reinit()
    return pid, master_fd


def fork_and_watch(callback: Callable[[Any], Any] | None = None, loop: Any = None, ref: bool = False,
                   fork: Callable[[], int] = fork_gevent) -> int:
    """Fork by *fork*, and have the event loop watch the child, so that `waitpid` can wait for it.

    *callback* is called in the hub with the watcher when the child ends. With *ref*, the watch keeps the loop alive.
    """
    pid = fork()
    if pid:
        _watch_child(pid, callback, loop, ref)
    return pid


def forkpty_and_watch(callback: Callable[[Any], Any] | None = None, loop: Any = None, ref: bool = False,
                      forkpty: Callable[[], tuple[int, int]] = forkpty_gevent) -> tuple[int, int]:
    """Like `fork_and_watch`, on a new terminal; returns the pid and the terminal's descriptor."""
    pid, master_fd = forkpty()
    if pid:
        _watch_child(pid, callback, loop, ref)
    return pid, master_fd


if config.disable_watch_children:

    def fork() -> int:
        """Fork, and make the hub usable in the child; the child is not watched (GEVENT_NOWAITPID)."""
        return fork_gevent()

    def forkpty() -> tuple[int, int]:
        """Fork on a new terminal; the child is not watched (GEVENT_NOWAITPID)."""
        return forkpty_gevent()

else:

    def fork(*args: Any, **kwargs: Any) -> int:
        """Fork as `fork_and_watch` does."""
        return fork_and_watch(*args, **kwargs)

    def forkpty(*args: Any, **kwargs: Any) -> tuple[int, int]:
        """Fork on a new terminal as `forkpty_and_watch` does."""
        return forkpty_and_watch(*args, **kwargs)

    def posix_spawn(*args: Any, **kwargs: Any) -> int:
        """Start a program as `os.posix_spawn` does, and watch it."""
        pid = _raw_posix_spawn(*args, **kwargs)
        _watch_child(pid)
        return pid

    def posix_spawnp(*args: Any, **kwargs: Any) -> int:
        """Start a program found by the search path as `os.posix_spawnp` does, and watch it."""
        pid = _raw_posix_spawnp(*args, **kwargs)
        _watch_child(pid)
        return pid
