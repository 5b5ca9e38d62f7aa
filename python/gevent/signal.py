"""The standard library's `signal`, with a handler of SIGCHLD that gets along with watched children.

The event loop takes SIGCHLD for itself. A handler of it that is set here runs in a greenlet, after the death of a
child that `gevent.os` made. All other signals go to the standard library. To call a function in a greenlet for any
signal, see `gevent.signal_handler`.
"""
import signal as _stdlib
import sys
from collections.abc import Callable
from typing import Any

from gevent import os as _os
from gevent._greenrust import Greenlet, get_hub
from gevent.thread import _native_ident_of

__implements__: list[str] = ["pthread_kill"]
__extensions__: list[str] = []
(__implements__ if "waitpid" in _os.__implements__ else __extensions__).extend(["signal", "getsignal", "set_wakeup_fd"])

__imports__ = [
    name
    for name in dir(_stdlib)
    if not name.startswith("__") and name not in __implements__ and name not in __extensions__
]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = list(__implements__ + __extensions__)

_signal_signal = _stdlib.signal
_signal_getsignal = _stdlib.getsignal
_signal_set_wakeup_fd = _stdlib.set_wakeup_fd
_signal_pthread_kill = _stdlib.pthread_kill

_UNKNOWN = object()
_child_handler: Any = _UNKNOWN
_child_wakeup_fd = -1
_child_wakeup_warns = True


def getsignal(signalnum: int) -> Any:
    """Return the handler of *signalnum*: for SIGCHLD the one that `signal` was given."""
    global _child_handler
    if signalnum != _stdlib.SIGCHLD:
        return _signal_getsignal(signalnum)
    if _child_handler is _UNKNOWN:
        _child_handler = _signal_getsignal(_stdlib.SIGCHLD)
    return _child_handler


def signal(signalnum: int, handler: Any) -> Any:
    """Set the handler of *signalnum* and return the one before.

    A handler of SIGCHLD is called, in a greenlet, after the death of each watched child. SIG_IGN and SIG_DFL for
    SIGCHLD are set in the system, too, and hold until the next child is watched. Raises TypeError for what is no
    handler.
    """
    global _child_handler
    if signalnum != _stdlib.SIGCHLD:
        return _signal_signal(signalnum, handler)
    constant = handler in (_stdlib.SIG_IGN, _stdlib.SIG_DFL)
    if not constant and not callable(handler):
        raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
    before = getsignal(signalnum)
    _child_handler = handler
    if constant:
        _signal_signal(signalnum, handler)
        get_hub().loop.reset_sigchld()
    return before


def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
    """Have the number of each signal written to *fd*, for watched children as well; returns the descriptor before."""
    global _child_wakeup_fd, _child_wakeup_warns
    before = _signal_set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
    _child_wakeup_fd, _child_wakeup_warns = fd, warn_on_full_buffer
    return before


def pthread_kill(thread_id: int, signalnum: int) -> None:
    """Send *signalnum* to a thread of the system: for a greenlet's `get_ident` to the one that runs it.

    `threading.get_ident` gives such numbers in a patched program; the system would take them for addresses of threads.
    """
    _signal_pthread_kill(_native_ident_of(thread_id), signalnum)


def _write_wakeup(fd: int, warn_on_full_buffer: bool) -> None:
    try:
        _os._write(fd, bytes((_stdlib.SIGCHLD,)))
    except OSError as error:
        if warn_on_full_buffer or error.errno not in _os._WOULD_BLOCK:
            get_hub().handle_error("set_wakeup_fd", *sys.exc_info())


def _on_child() -> None:
    # Runs in the hub; a handler may block, so each gets a greenlet.
    if not callable(_child_handler):
        return
    handler: Callable[..., Any] = _child_handler
    if _child_wakeup_fd >= 0:
        Greenlet(_write_wakeup, _child_wakeup_fd, _child_wakeup_warns).switch()
    Greenlet(handler, _stdlib.SIGCHLD, None).switch()


_os._on_child_hook = _on_child
