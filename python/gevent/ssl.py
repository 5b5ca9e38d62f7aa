"""TLS sockets whose waiting lets other greenlets run.

Everything of the standard library's `ssl` is here under its name. `SSLSocket` is a subclass of its class and of
`gevent.socket.socket`. Patching does not replace the classes of `ssl`: it tells the standard library's `SSLContext`
to make sockets of this class, so that contexts, subclasses and references that exist already work.
"""
import os as _os
import ssl as _stdlib
from typing import Any

from gevent._greenrust import tls_read, tls_run, tls_write
from gevent.socket import create_connection
from gevent.socket import socket as _gevent_socket

__implements__ = ["SSLContext", "SSLSocket", "get_server_certificate"]
__extensions__: list[str] = []
# CPython 3.12 has it no more.
(__implements__ if hasattr(_stdlib, "wrap_socket") else __extensions__).append("wrap_socket")
_OWN = ["create_default_context", "_create_stdlib_context", "_create_unverified_context", "create_connection"]

__imports__ = [
    name for name in dir(_stdlib) if not (name.startswith("__") or name in __implements__ or name in _OWN)
]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = ["create_default_context"]
__all__ += list(__implements__)
__all__ += list(__extensions__)
__all__ += [name for name in __imports__ if name not in ("socket", "sys", "os", "warnings", "_ssl")]

_StdlibSSLContext = _stdlib.SSLContext
_StdlibSSLSocket = _stdlib.SSLSocket
_stdlib_create_default_context = _stdlib.create_default_context
_stdlib_create_unverified_context = _stdlib._create_unverified_context
_stdlib_get_server_certificate = _stdlib.get_server_certificate
_SSLError = _stdlib.SSLError


class _WaitingSSLSocket(_StdlibSSLSocket):
    """What a TLS socket does where it has to wait. How it waits, says a subclass."""

    __slots__ = ()

    # `tls_run(sock, message, operation)`, `tls_read(sock, sslobj, length, buffer, is_over)` and
    # `tls_write(sock, sslobj, data)`: repeat operations of OpenSSL, waiting as they ask to.
    _tls_run: Any
    _tls_read: Any
    _tls_write: Any

    def do_handshake(self, block: bool = False) -> None:
        """Agree on keys with the peer. Switches. With *block*, waits also when the socket is non-blocking."""
        self._check_connected()
        timeout = self.gettimeout()
        if block and timeout == 0.0:
            self.settimeout(None)
        try:
            self._tls_run(self, "_ssl.c: The handshake operation timed out", self._sslobj.do_handshake)
        finally:
            if block and timeout == 0.0:
                self.settimeout(timeout)

    # Whether a read asks OpenSSL before it waits. Set once one has told of the end or of an error, which the next one
    # tells at once, whatever the peer does.
    _asks_first = False

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive up to *buflen* bytes; b"" is the end. Switches. *flags* must be 0 on a TLS connection."""
        if flags != 0 or self._sslobj is None:
            return super().recv(buflen, flags)
        return self.read(buflen)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Return up to *len* bytes, or read them into *buffer* and return their number. Switches."""
        sslobj = self._sslobj
        if sslobj is None:
            raise ValueError("Read on closed or unwrapped SSL socket.")
        try:
            found = self._tls_read(self, sslobj, len, buffer, self._asks_first)
        except _SSLError as error:
            if error.args[0] not in (_stdlib.SSL_ERROR_WANT_READ, _stdlib.SSL_ERROR_WANT_WRITE):
                self._asks_first = True
            # The peer closed without saying so: as the end, unless the program wants to know.
            if error.args[0] == _stdlib.SSL_ERROR_EOF and self.suppress_ragged_eofs:
                return b"" if buffer is None else 0
            raise
        if not found:
            self._asks_first = True
        return found

    def write(self, data: Any) -> int:
        """Write *data*; returns how many bytes were taken. Switches."""
        if self._sslobj is None:
            raise ValueError("Write on closed or unwrapped SSL socket.")
        return self._tls_write(self, self._sslobj, data)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send *data*; returns how many bytes were taken. Switches. *flags* must be 0 on a TLS connection."""
        if self._sslobj is None:
            return super().send(data, flags)
        if flags != 0:
            raise ValueError(f"non-zero flags not allowed in calls to send() on {type(self)}")
        return self._tls_write(self, self._sslobj, data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*. Switches. *flags* must be 0 on a TLS connection."""
        if flags != 0 or type(data) is not bytes or not data or self._sslobj is None:
            return super().sendall(data, flags)
        # OpenSSL mostly takes all at once.
        sent = self.send(data)
        if sent < len(data):
            super().sendall(memoryview(data)[sent:])

    def unwrap(self) -> Any:
        """End TLS and return the plain socket. A peer that closes without answering has ended it too. Switches."""
        sslobj = self._sslobj
        if sslobj is None:
            raise ValueError("No SSL wrapper around " + str(self))
        plain: Any = self
        try:
            plain = self._tls_run(self, "The read operation timed out", sslobj.shutdown)
        except (_stdlib.SSLEOFError, _stdlib.SSLZeroReturnError):
            pass
        except OSError as error:
            # What OpenSSL's versions before 3 make of such an end.
            if error.errno != 0:
                raise
        self._sslobj = None
        return plain


class SSLSocket(_WaitingSSLSocket, _gevent_socket):
    """A TLS connection over a `gevent.socket.socket`; made by `SSLContext.wrap_socket`.

    The time-out is for a whole operation. When it is over, TimeoutError is raised and the connection is not usable any
    more.
    """

    # Native functions, which don't bind.
    _tls_run, _tls_read, _tls_write = tls_run, tls_read, tls_write


class SSLContext(_StdlibSSLContext):
    """The standard library's context, with `SSLSocket` for its sockets."""

    sslsocket_class = SSLSocket


def create_default_context(*args: Any, **kwargs: Any) -> Any:
    """Return a context as `ssl.create_default_context` does, whose sockets switch where they wait."""
    context = _stdlib_create_default_context(*args, **kwargs)
    context.sslsocket_class = SSLSocket
    return context


def _create_unverified_context(*args: Any, **kwargs: Any) -> Any:
    context = _stdlib_create_unverified_context(*args, **kwargs)
    context.sslsocket_class = SSLSocket
    return context


_create_stdlib_context = _create_unverified_context


def wrap_socket(sock: Any, keyfile: Any = None, certfile: Any = None, server_side: bool = False,
                cert_reqs: Any = _stdlib.CERT_NONE, ssl_version: Any = _stdlib.PROTOCOL_TLS, ca_certs: Any = None,
                do_handshake_on_connect: bool = True, suppress_ragged_eofs: bool = True,
                ciphers: str | None = None) -> Any:
    """Wrap *sock* with a context made of the arguments. Switches.

    Verifies nothing unless *cert_reqs* says so, and never the host name. Raises ValueError when the arguments do
    not fit together.
    """
    context = _context_of(server_side, keyfile, certfile, cert_reqs, ssl_version, ca_certs, ciphers)
    return context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
    )


def _context_of(server_side: bool, keyfile: Any = None, certfile: Any = None, cert_reqs: Any = _stdlib.CERT_NONE,
                ssl_version: Any = _stdlib.PROTOCOL_TLS, ca_certs: Any = None,
                ciphers: str | None = None) -> SSLContext:
    if server_side and not certfile:
        raise ValueError("certfile must be specified for server-side operations")
    if keyfile and not certfile:
        raise ValueError("certfile must be specified")
    if ssl_version == _stdlib.PROTOCOL_TLS:
        # The version that means both sides is deprecated in favour of one for each.
        ssl_version = _stdlib.PROTOCOL_TLS_SERVER if server_side else _stdlib.PROTOCOL_TLS_CLIENT
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = cert_reqs
    if ca_certs:
        context.load_verify_locations(ca_certs)
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ciphers:
        context.set_ciphers(ciphers)
    return context


class _ServerWrap:
    """`wrap_socket` for a server, whose arguments are the same for each connection.

    Reading the files costs more than a handshake. So the context is made anew only when one of them has changed.
    """

    def __init__(self) -> None:
        self._known: tuple[Any, SSLContext] | None = None

    def __call__(self, sock: Any, server_side: bool = True, do_handshake_on_connect: bool = True,
                 suppress_ragged_eofs: bool = True, **arguments: Any) -> Any:
        files = [_os.stat(path) for name in ("certfile", "keyfile", "ca_certs") if (path := arguments.get(name))]
        # Taken before they are read: what changes meanwhile is seen by the next connection.
        made_of = server_side, arguments, [(file.st_mtime_ns, file.st_size, file.st_ino) for file in files]
        known = self._known
        if known is None or known[0] != made_of:
            known = self._known = made_of, _context_of(server_side, **arguments)
        return known[1].wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
        )


def get_server_certificate(addr: tuple[str, int], ssl_version: Any = _stdlib.PROTOCOL_TLS_CLIENT, ca_certs: Any = None,
                           timeout: Any = None) -> str:
    """Return the certificate of the server at *addr*, in PEM; verified if *ca_certs* is given. Switches."""
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = _stdlib.CERT_REQUIRED if ca_certs else _stdlib.CERT_NONE
    if ca_certs:
        context.load_verify_locations(ca_certs)
    with create_connection(addr, timeout=timeout) as plain, context.wrap_socket(plain, server_hostname=addr[0]) as tls:
        return _stdlib.DER_cert_to_PEM_cert(tls.getpeercert(True))


def _gevent_do_monkey_patch(request: Any) -> None:
    """Patch the module `ssl`: its contexts make our sockets from now on, whoever holds them."""
    for name in request.items:
        if name == "SSLContext":
            request.patch_attribute(_StdlibSSLContext, "sslsocket_class", SSLSocket)
            request.save("SSLContext", _StdlibSSLContext)
        elif name == "SSLSocket":
            request.save("SSLSocket", _StdlibSSLSocket)
        elif hasattr(request.target_module, name):
            request.patch(name)
