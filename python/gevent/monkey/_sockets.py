"""Makes the sockets wait as greenlets do that are open when `socket` is patched, and those of classes derived before.

Such a socket can't become one of ours, whose objects are larger. It is given a class that adds no field: the descriptor
becomes non-blocking, and the methods wait. A class that a program has derived gets that for its base.
"""
import functools
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

from gevent._greenrust import get_hub_if_exists, wait_read, wait_write
from gevent._greenrust import socket as _GreenSocket
from gevent.monkey import _repair
from gevent.socket import _resolved
from gevent.socket import socket as _gevent_socket

_Native: Any = socket.socket
#: The time-out of each socket in seconds, None for none.
_timeouts: "weakref.WeakKeyDictionary[Any, float | None]" = weakref.WeakKeyDictionary()


def _waiting(name: str, wait: Callable[..., Any]) -> Any:
    operation = getattr(_Native, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return operation(self, *args, **kwargs)
            except BlockingIOError:
                timeout = _timeouts.get(self)
                if timeout == 0:
                    raise
                wait(self.fileno(), timeout, TimeoutError("timed out"))

    call.__name__, call.__doc__ = name, operation.__doc__
    return call


class EarlySocket(_Native):
    """A socket that was open before patching, or whose class was derived before. Its methods switch."""

    __slots__ = ()

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        super().__init__(family, type, proto, fileno)
        EarlySocket.settimeout(self, _Native.gettimeout(self))

    @property
    def __class__(self) -> Any:
        """The class of sockets, so that these count as such."""
        kind = type(self)
        return _gevent_socket if kind is EarlySocket else kind

    recv = _waiting("recv", wait_read)
    recv_into = _waiting("recv_into", wait_read)
    recvfrom = _waiting("recvfrom", wait_read)
    recvfrom_into = _waiting("recvfrom_into", wait_read)
    recvmsg = _waiting("recvmsg", wait_read)
    recvmsg_into = _waiting("recvmsg_into", wait_read)
    _accept = _waiting("_accept", wait_read)
    send = _waiting("send", wait_write)
    sendto = _waiting("sendto", wait_write)
    sendmsg = _waiting("sendmsg", wait_write)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*."""
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                sent += self.send(rest[sent:], flags)

    def connect(self, address: Any) -> None:
        """Connect to *address*."""
        address = _resolved(self, self.family, address)
        try:
            super().connect(address)
        except BlockingIOError:
            timeout = _timeouts.get(self)
            if timeout == 0:
                raise
            wait_write(self.fileno(), timeout, TimeoutError("timed out"))
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"connect to {address!r} failed") from None

    def connect_ex(self, address: Any) -> int:
        """Connect to *address*; returns the error number, 0 for success."""
        try:
            self.connect(address)
        except TimeoutError:
            raise
        except OSError as error:
            return error.errno or 0
        return 0

    def settimeout(self, value: float | None) -> None:
        """Set the time-out in seconds."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        super().settimeout(0)
        _timeouts[self] = value

    def gettimeout(self) -> float | None:
        """Return the time-out in seconds."""
        return _timeouts.get(self)

    @property
    def timeout(self) -> float | None:
        """The time-out in seconds."""
        return self.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """Set the time-out to none or zero."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Return whether the time-out is not zero."""
        return self.gettimeout() != 0

    def _real_close(self, *args: Any) -> None:
        hub = get_hub_if_exists()
        if hub is not None and self.fileno() >= 0:
            hub.loop.closing_fd(self.fileno())
        super()._real_close(*args)


#: How many sockets were made cooperative.
adopted = 0


def adopt(native: type[Any], early: type[Any]) -> None:
    """Make the open sockets of the class *native* those of *early*, and have programs' classes derive from that."""
    global adopted
    classes = _repair.derived_classes(native)
    opened = [
        (one, _Native.gettimeout(one))
        for one in gc.get_objects()
        if type(one) is native or issubclass(type(one), tuple(classes))
    ]
    for kind in classes:
        _repair.derive_anew(kind, native, early)
    for one, timeout in opened:
        if type(one) is native:
            one.__class__ = early
        if isinstance(one, early) and one.fileno() >= 0:
            EarlySocket.settimeout(one, timeout)
            adopted += 1


def _serve_early_sockets() -> None:
    """Have the methods of `gevent.socket.socket` serve an EarlySocket, too.

    A class that calls its base by name, as `socket.socket.__init__(self)`, finds them there.
    """

    def serve(ours: Any, early: Any) -> Any:
        @functools.wraps(ours)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return (early if issubclass(type(self), EarlySocket) else ours)(self, *args, **kwargs)

        return call

    for name in {*vars(_GreenSocket), *vars(_gevent_socket)}:
        ours, early = getattr(_gevent_socket, name), getattr(EarlySocket, name, None)
        if (name == "__init__" or not name.startswith("__")) and callable(early) and callable(ours):
            setattr(_gevent_socket, name, serve(ours, early))


def adopt_sockets() -> None:
    """Make cooperative what the standard library's class of sockets has made, and what derives from it."""
    if _repair.derived_classes(_Native):
        _serve_early_sockets()
    adopt(_Native, EarlySocket)
