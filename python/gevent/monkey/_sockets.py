"""Makes the sockets that are open when `socket` is patched wait as greenlets do.

An open socket of the standard library can't become one of ours, whose objects are larger. It is given a class that adds
no field: the descriptor becomes non-blocking, and the methods wait. Sockets of TLS stay as they are.
"""
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

from gevent._greenrust import get_hub_if_exists, wait_read, wait_write

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
    """A socket that was open before patching. Its methods switch."""

    __slots__ = ()

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


def adopt_open_sockets() -> None:
    """Make the open sockets of the standard library cooperative."""
    global adopted
    for one in gc.get_objects():
        if type(one) is _Native and one.fileno() >= 0:
            timeout = one.gettimeout()
            one.__class__ = EarlySocket
            one.settimeout(timeout)
            adopted += 1
