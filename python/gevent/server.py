"""TCP, TLS and UDP servers."""
import _socket
from collections.abc import Callable
from typing import Any

from gevent._greenrust import Semaphore
from gevent.baseserver import BaseServer
from gevent.socket import socket
from gevent.ssl import _ServerWrap

__all__ = ["StreamServer", "DatagramServer"]

# The system's calls, which never wait here: the listener is known to be readable, or is asked again later.
_accept = _socket.socket._accept  # type: ignore[attr-defined]
_recvfrom = _socket.socket.recvfrom


def _bound(address: Any, kind: int, family: int, reuse_addr: int | None, reuse_port: bool = False) -> socket:
    listener = socket(family, kind)
    try:
        if reuse_addr is not None:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, reuse_addr)
        if reuse_port:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError) and error.strerror is not None:
            error.strerror = f"{error.strerror}: {address!r}"
        raise
    return listener


def listen(address: Any, backlog: int, family: int, reuse_addr: int | None, reuse_port: bool = False) -> socket:
    """Return a socket bound to *address* that listens and does not block."""
    listener = _bound(address, _socket.SOCK_STREAM, family, reuse_addr, reuse_port)
    try:
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _tcp_listener(address: Any, backlog: int = 50, reuse_addr: int | None = None,
                  family: int = _socket.AF_INET) -> socket:
    # Programs that fork before they serve make their listener by it.
    return listen(address, backlog, family, reuse_addr)


def _udp_socket(address: Any, backlog: int = 50, reuse_addr: int | None = None,
                family: int = _socket.AF_INET) -> socket:
    return _bound(address, _socket.SOCK_DGRAM, family, reuse_addr)


class StreamServer(BaseServer):
    """A TCP server that calls ``handle(socket, address)`` in a greenlet for each connection.

    With *ssl_args* it speaks TLS: either *ssl_context* and the arguments of its `wrap_socket`, or the arguments of
    `gevent.ssl.wrap_socket` (keyfile, certfile...). The handshake is made in the connection's greenlet.
    """

    #: How many connections the system keeps until they are accepted.
    backlog = 128
    #: The option SO_REUSEADDR of the listening socket; None leaves it as it is.
    reuse_addr: int | None = 1

    # How many handshakes are being made, and the listener that is to be closed when they are, with the time it has.
    _handshakes = 0
    _late_listener: Any = None
    _late_timer: Any = None

    def __init__(self, listener: Any, handle: Callable[..., Any] | None = None, backlog: int | None = None,
                 spawn: Any = "default", **ssl_args: Any) -> None:
        self._has_own_listener = not hasattr(listener, "accept")
        super().__init__(listener, handle=handle, spawn=spawn)
        try:
            self.ssl_args: dict[str, Any] | None = None
            if ssl_args:
                ssl_args.setdefault("server_side", True)
                context = ssl_args.pop("ssl_context", None)
                self.wrap_socket: Any = _ServerWrap() if context is None else context.wrap_socket
                self.ssl_args = ssl_args
            if backlog is not None:
                if hasattr(self, "socket"):
                    raise TypeError("backlog must be None when a socket instance is passed")
                self.backlog = backlog
        except BaseException:
            self.close()
            raise

    @property
    def ssl_enabled(self) -> bool:
        """True when the server speaks TLS."""
        return self.ssl_args is not None

    def init_socket(self) -> None:
        """Make the listening socket, if the server was given an address."""
        self._close_late_listener()
        if not hasattr(self, "socket"):
            self.socket = self.get_listener(self.address, self.backlog, self.family)
            self.address = self.socket.getsockname()
        self._handle = self.wrap_socket_and_handle if self.ssl_args else self.handle

    @classmethod
    def get_listener(cls, address: Any, backlog: int | None = None, family: int | None = None) -> socket:
        """Return a socket bound to *address* that listens and does not block."""
        return listen(address, cls.backlog if backlog is None else backlog,
                      _socket.AF_INET if family is None else family, cls.reuse_addr)

    def do_read(self) -> Any:
        """Accept a connection: returns its socket and address, or None when there is none."""
        listener = self.socket
        if type(listener) is socket:
            return listener.accept_ready()
        try:
            # Its own accept might wait.
            fd, address = _accept(listener)
        except BlockingIOError:
            return None
        return socket(listener.family, listener.type, listener.proto, fileno=fd), address

    def do_close(self, sock: Any, *args: Any) -> None:
        """Close the connection."""
        sock.close()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        """Make the TLS handshake and call the handler. Switches."""
        # Taken before the handshake: the server may be stopped meanwhile.
        handle = self.handle
        self._handshakes += 1
        try:
            tls = self.wrap_socket(client_socket, **self.ssl_args)
        finally:
            self._handshakes -= 1
            if not self._handshakes and self._late_listener is not None:
                # The handler begins before.
                self.loop.run_callback(self._close_late_listener)
        with tls:
            return handle(tls, address)

    def _close_listener(self, listener: Any) -> None:
        # Handlers may ask the socket that the server was given for its name, as gunicorn's do: those, too, that are
        # about to begin. No client can keep it open for long.
        if self._has_own_listener or not self._handshakes:
            super()._close_listener(listener)
            return
        self._late_listener = listener
        self._late_timer = self.loop.timer(1, ref=False)
        self._late_timer.start(self._close_late_listener)

    def _close_late_listener(self) -> None:
        listener, timer = self._late_listener, self._late_timer
        if listener is not None:
            self._late_listener = self._late_timer = None
            timer.stop()
            timer.close()
            listener.close()

    def _end_handlers(self, timeout: float) -> None:
        try:
            super()._end_handlers(timeout)
        finally:
            self._close_late_listener()


class DatagramServer(BaseServer):
    """A UDP server that calls ``handle(data, address)`` in a greenlet for each datagram."""

    #: The option SO_REUSEADDR of the socket; None leaves it as it is.
    reuse_addr: int | None = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._writelock = Semaphore()

    def init_socket(self) -> None:
        """Make the socket, if the server was given an address."""
        if not hasattr(self, "socket"):
            self.socket = self.get_listener(self.address, self.family)
            self.address = self.socket.getsockname()

    @classmethod
    def get_listener(cls, address: Any, family: int | None = None) -> socket:
        """Return a socket bound to *address*."""
        return _bound(address, _socket.SOCK_DGRAM, _socket.AF_INET if family is None else family, cls.reuse_addr)

    def do_read(self) -> Any:
        """Receive a datagram: returns it and the sender's address, or None when there is none."""
        try:
            return _recvfrom(self.socket, 8192)
        except BlockingIOError:
            return None

    def sendto(self, *args: Any) -> None:
        """Send a datagram as `socket.sendto` does. Switches while the system's buffer is full."""
        with self._writelock:
            self.socket.sendto(*args)
