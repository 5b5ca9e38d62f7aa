"""Makes the TLS sockets wait as greenlets do that are open when `ssl` is patched, and those of derived classes."""
import ssl
from typing import Any

from gevent._greenrust import wait_read, wait_write
from gevent.monkey import _sockets
from gevent.ssl import _READ, _WaitingSSLSocket

_Native: Any = ssl.SSLSocket


class EarlySSLSocket(_WaitingSSLSocket, _sockets.EarlySocket):
    """A TLS connection that was open before patching, or whose class was derived before. Its methods switch."""

    __slots__ = ()

    _asks_first = True

    def _wait(self, message: str, direction: int) -> None:
        wait = wait_read if direction == _READ else wait_write
        wait(self.fileno(), self.timeout, TimeoutError(message))


def adopt_sockets() -> None:
    """Make cooperative what the standard library's class of TLS sockets has made, and what derives from it."""
    _sockets.adopt(_Native, EarlySSLSocket)
