"""Sockets whose waiting lets other greenlets run, and look-ups by the hub's resolver.

Everything of the standard library's `socket` is here under its name. `socket` is a subclass of its class: what waits
is native, and what does not wait (`bind`, `getsockopt`, `makefile`...) is inherited.
"""
import _socket
import os as _os
import socket as _stdlib
from collections.abc import Iterable
from typing import Any

from gevent import _greenrust
from gevent._greenrust import Timeout, get_hub, wait_read, wait_readwrite, wait_socket, wait_write  # noqa: F401 (exported)

__implements__ = [
    "create_connection",
    "socket",
    "SocketType",
    "fromfd",
    "socketpair",
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostbyaddr",
    "getnameinfo",
    "getfqdn",
]
__dns__ = ["getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"]
__extensions__ = ["cancel_wait", "wait_read", "wait_write", "wait_readwrite"]
# Defined here, and equal in effect to the standard library's once that is patched.
_OWN = ["create_server", "wait", "cancel_wait_ex"]

__imports__ = [
    name
    for name in dir(_stdlib)
    if not (name.startswith("__") or name in __implements__ or name in __extensions__ or name in _OWN)
]
globals().update({name: getattr(_stdlib, name) for name in __imports__})

__all__ = list(__implements__ + __extensions__ + ["create_server", "wait"])
__all__ += [name for name in _stdlib.__all__ if name in __imports__]

_GLOBAL_DEFAULT_TIMEOUT: Any = _stdlib._GLOBAL_DEFAULT_TIMEOUT
_stdlib_create_server = _stdlib.create_server
_MISSING: Any = object()

#: What `cancel_wait` raises in the waiting greenlet unless told otherwise.
cancel_wait_ex = OSError(9, "File descriptor was closed in another greenlet")


def wait(io: Any, timeout: float | None = None, timeout_exc: Any = _MISSING) -> None:
    """Wait until the watcher *io* fires, for at most *timeout* seconds. Switches.

    Raises *timeout_exc* (by default TimeoutError) when the time is over; see `gevent.Timeout` for what it may be.
    """
    if timeout_exc is _MISSING:
        timeout_exc = TimeoutError("timed out")
    with Timeout.start_new(timeout, timeout_exc):
        get_hub().wait(io)


def cancel_wait(watcher: Any, error: BaseException = cancel_wait_ex) -> None:
    """Raise *error* in the greenlet that waits for *watcher*, if there is one."""
    get_hub().cancel_wait(watcher, error)


# A socket's family as a plain number: the standard library's property makes a member of an enumeration each time.
_family: Any = _socket.socket.__dict__["family"].__get__


def _is_numeric(family: int, host: Any) -> bool:
    if not isinstance(host, str):
        return False
    try:
        _socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def _resolved(sock: Any, family: int, address: Any) -> Any:
    """Return *address*, which *sock* of *family* is to use, with the host name looked up by the hub's resolver."""
    if family not in (_socket.AF_INET, _socket.AF_INET6) or not isinstance(address, tuple) or not address:
        return address
    host = address[0]
    if _is_numeric(family, host):
        return address
    found = getaddrinfo(host, address[1], sock.family, sock.type, sock.proto)[0][4]
    # What the caller says of port, flow and scope counts: a port that is too large is refused by the call.
    port = address[1] if isinstance(address[1], int) else found[1]
    return (found[0], port, *(found if len(address) == 2 else address)[2:])


class socket(_greenrust.socket):
    """A network connection or listener, as the standard library's `socket.socket`; its methods switch where they wait.

    The time-out is per call, in seconds; None waits without limit, 0 never waits.
    """

    # The attributes are in the native object.
    __slots__ = ()

    @property
    def hub(self) -> Any:
        """The hub of the calling thread."""
        return get_hub()

    def _resolved(self, address: Any) -> Any:
        """Return *address* with the host name looked up by the hub's resolver; `connect` calls it. Switches."""
        return _resolved(self, _family(self), address)

    def _sendfile_use_sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        # The standard library's version waits by a selector, which would block the thread.
        self._check_sendfile_params(file, offset, count)
        try:
            in_fd = file.fileno()
            size = _os.fstat(in_fd).st_size
        except (AttributeError, OSError, ValueError) as error:
            raise _stdlib._GiveupOnSendfile(error) from error
        if not size:
            return 0
        timeout = self.gettimeout()
        if timeout == 0:
            raise ValueError("non-blocking sockets are not supported")
        block = min(count or size, 1 << 30)
        sent = 0
        try:
            while True:
                if count:
                    block = min(count - sent, block)
                    if block <= 0:
                        return sent
                try:
                    written = _os.sendfile(self.fileno(), in_fd, offset, block)
                except BlockingIOError:
                    wait_socket(self, 2, timeout)
                    continue
                except OSError as error:
                    if sent == 0:
                        # Not a file that the system can send from: the caller reads and sends instead.
                        raise _stdlib._GiveupOnSendfile(error) from error
                    raise
                if written == 0:
                    return sent
                offset += written
                sent += written
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset)


SocketType = socket


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """Return a socket on a duplicate of the descriptor *fd*."""
    return socket(family, type, proto, _os.dup(fd))


def socketpair(family: int | None = None, type: int = _stdlib.SOCK_STREAM, proto: int = 0) -> tuple[socket, socket]:
    """Return two connected sockets, of AF_UNIX unless *family* says otherwise."""
    if family is None:
        family = _stdlib.AF_UNIX
    first, second = _socket.socketpair(family, type, proto)
    return socket(family, type, proto, first.detach()), socket(family, type, proto, second.detach())


def create_connection(address: tuple[Any, Any], timeout: Any = _GLOBAL_DEFAULT_TIMEOUT, source_address: Any = None, *,
                      all_errors: bool = False) -> socket:
    """Connect to *address* (host, port), trying all addresses of the host; returns the socket. Switches.

    *timeout* (seconds) is set on the socket before connecting; *source_address* is bound first. Raises the error of
    the last address, or with *all_errors* an ExceptionGroup of all.
    """
    host, port = address
    errors: list[OSError] = []
    for family, kind, proto, _canonical, target in getaddrinfo(host, port, 0, _stdlib.SOCK_STREAM):
        sock = None
        try:
            sock = socket(family, kind, proto)
            if timeout is not _GLOBAL_DEFAULT_TIMEOUT:
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(target)
            return sock
        except OSError as error:
            if not all_errors:
                errors.clear()
            errors.append(error)
            if sock is not None:
                sock.close()
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    try:
        if not errors:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        raise errors[0]
    finally:
        # The errors' tracebacks refer to this frame.
        errors.clear()


def create_server(address: Any, *, family: int = _stdlib.AF_INET, backlog: int | None = None, reuse_port: bool = False,
                  dualstack_ipv6: bool = False) -> socket:
    """Return a TCP socket bound to *address* that listens, as `socket.create_server` does."""
    listener = _stdlib_create_server(
        address, family=family, backlog=backlog, reuse_port=reuse_port, dualstack_ipv6=dualstack_ipv6
    )
    return socket(listener.family, listener.type, listener.proto, listener.detach())


# -- look-ups -----------------------------------------------------------------------------------------------


# The members of the enumerations by their numbers, without the detour of making them.
_FAMILIES: dict[int, Any] = {member.value: member for member in _stdlib.AddressFamily}
_KINDS: dict[int, Any] = {member.value: member for member in _stdlib.SocketKind}


def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
    """Return the addresses of *host* and *port* as `socket.getaddrinfo` does. Switches."""
    found: Iterable[Any] = get_hub().resolver.getaddrinfo(host, port, family, type, proto, flags)
    return [
        (_FAMILIES.get(af, af), _KINDS.get(kind, kind), protocol, canonical_name, address)
        for af, kind, protocol, canonical_name, address in found
    ]


def gethostbyname(hostname: Any) -> str:
    """Return the IPv4 address of *hostname*. Switches."""
    return get_hub().resolver.gethostbyname(hostname)


def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
    """Return the name, aliases and IPv4 addresses of *hostname*. Switches."""
    return get_hub().resolver.gethostbyname_ex(hostname)


def gethostbyaddr(ip_address: Any) -> tuple[str, list[str], list[str]]:
    """Return the name, aliases and addresses of the host with *ip_address*. Switches."""
    return get_hub().resolver.gethostbyaddr(ip_address)


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """Return the host and service names of *sockaddr*. Switches."""
    return get_hub().resolver.getnameinfo(sockaddr, flags)


def getfqdn(name: str = "") -> str:
    """Return the fully qualified name of the host *name* (this one by default), or *name*. Switches."""
    name = name.strip()
    if not name or name in ("0.0.0.0", "::"):
        name = _socket.gethostname()
    try:
        hostname, aliases, _addresses = gethostbyaddr(name)
    except OSError:
        return name
    return next((candidate for candidate in [hostname, *aliases] if "." in candidate), hostname)
