"""The system's look-ups, in the threads of the hub's pool: the default resolver."""
import _socket
from _socket import gaierror, herror
from typing import Any

from gevent._greenrust import get_hub

__all__ = ["Resolver"]

# An address in digits begins with one of these; the system converts it without asking anyone.
_NUMERIC_START = frozenset("0123456789:")


def _looks_numeric(host: Any) -> bool:
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    return host is None or (isinstance(host, str) and (host[:1] in _NUMERIC_START or ":" in host))


# What the system names for each kind of socket, and the families that a dotted quad is in.
_PROTOCOLS = {_socket.SOCK_STREAM: _socket.IPPROTO_TCP, _socket.SOCK_DGRAM: _socket.IPPROTO_UDP}
_IPV4 = (_socket.AF_UNSPEC, _socket.AF_INET)
_inet_pton = _socket.inet_pton


def _is_plain_ipv4(host: Any, port: Any) -> bool:
    if type(host) is not str or type(port) is not int or not 0 <= port <= 65535 or host[:1] not in _NUMERIC_START:
        return False
    try:
        # Stricter than the system's reading, which takes 127.1 as well.
        _inet_pton(_socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


class Resolver:
    """Looks up names in the hub's thread pool. Each method has the signature of the function in `socket`; switches."""

    def __init__(self, hub: Any = None) -> None:
        hub = hub if hub is not None else get_hub()
        self.pool: Any = hub.threadpool
        # Who looks up gets the error; the pool need not report it as well.
        if gaierror not in hub.NOT_ERROR:
            hub.NOT_ERROR += (gaierror, herror)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} at {id(self):#x} pool={self.pool!r}>"

    def close(self) -> None:
        """Do nothing: the pool is the hub's."""

    def getaddrinfo(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0,
                    flags: int = 0) -> list[Any]:
        """Return the addresses of *host* and *port*; an address in digits is converted at once."""
        if type in _PROTOCOLS and flags == 0 and proto == 0 and family in _IPV4 and _is_plain_ipv4(host, port):
            # The usual case of a connection to an address in digits: this is what the system would say.
            return [(_socket.AF_INET, type, _PROTOCOLS[type], "", (host, port))]
        if _looks_numeric(host):
            # As bytes it is not taken for a name, which would be encoded by IDNA.
            digits = host.encode("ascii") if isinstance(host, str) and host.isascii() else host
            try:
                return _socket.getaddrinfo(digits, port, family, type, proto, flags | _socket.AI_NUMERICHOST)
            except _socket.gaierror:
                # It was a name after all, or the numeric address does not fit: let the real call tell.
                pass
        return self.pool.apply(_socket.getaddrinfo, (host, port, family, type, proto, flags))

    def gethostbyname(self, hostname: Any) -> str:
        """Return the IPv4 address of *hostname*."""
        return self.pool.apply(_socket.gethostbyname, (hostname,))

    def gethostbyname_ex(self, hostname: Any) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and IPv4 addresses of *hostname*."""
        return self.pool.apply(_socket.gethostbyname_ex, (hostname,))

    def gethostbyaddr(self, ip_address: Any) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and addresses of the host with *ip_address*."""
        return self.pool.apply(_socket.gethostbyaddr, (ip_address,))

    def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the host and service names of *sockaddr*."""
        return self.pool.apply(_socket.getnameinfo, (sockaddr, flags))
