"""Makes the TLS sockets wait as greenlets do that are open when `ssl` is patched, and those of derived classes."""
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gevent._greenrust import wait_read, wait_write
from gevent.monkey import _sockets
from gevent.ssl import _WaitingSSLSocket

_Native: Any = ssl.SSLSocket


class EarlySSLSocket(_WaitingSSLSocket, _sockets.EarlySocket):
    """A TLS connection that was open before patching, or whose class was derived before. Its methods switch."""

    __slots__ = ()

    @staticmethod
    def _tls_run(sock: Any, message: str, operation: Callable[[], Any]) -> Any:
        timeout = sock.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return operation()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if timeout == 0.0:
                    raise
                wait = wait_read if isinstance(error, ssl.SSLWantReadError) else wait_write
            wait(sock.fileno(), deadline and max(deadline - time.monotonic(), 0), TimeoutError(message))

    @staticmethod
    def _tls_read(sock: Any, sslobj: Any, length: int, buffer: Any, is_over: bool) -> Any:
        arguments = (length,) if buffer is None else (length, buffer)
        return EarlySSLSocket._tls_run(sock, "The read operation timed out", partial(sslobj.read, *arguments))

    @staticmethod
    def _tls_write(sock: Any, sslobj: Any, data: Any) -> Any:
        return EarlySSLSocket._tls_run(sock, "The write operation timed out", partial(sslobj.write, data))


def adopt_sockets() -> None:
    """Make cooperative what the standard library's class of TLS sockets has made, and what derives from it."""
    _sockets.adopt(_Native, EarlySSLSocket)
