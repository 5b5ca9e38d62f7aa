"""Host name look-ups behind `gevent.hub.Hub.resolver`: one module for each way to do them.

A resolver is a class that is made with `hub=` and has `getaddrinfo`, `gethostbyname`, `gethostbyname_ex`,
`gethostbyaddr`, `getnameinfo` and `close`. The setting `resolver` (GEVENT_RESOLVER) chooses it. One may derive from
`AbstractResolver`.
"""
import _socket
from typing import Any

__all__ = ["AbstractResolver"]

_LOCAL_NAMES = frozenset((b"localhost", b"ip6-localhost", b"127.0.0.1", b"::1"))
_BROADCAST = frozenset((b"<broadcast>", b"255.255.255.255"))


class AbstractResolver:
    """What a resolver of a program may derive from.

    The functions of `socket` are here: arguments are checked, names are encoded, and the system answers for this
    machine. The rest, addresses in digits as well, is asked of `_getaddrinfo`, `_gethostbyname_ex`, `_gethostbyaddr`
    and `_getnameinfo`, which a subclass defines. Those may switch.
    """

    #: How names become bytes.
    HOSTNAME_ENCODING = "idna"
    EAI_NONAME_MSG = "Name or service not known"
    EAI_FAMILY_MSG = "ai_family not supported"

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _hostname_to_bytes(self, hostname: Any) -> bytes:
        """Return *hostname* as bytes. Raises UnicodeError for what is no name, and TypeError."""
        if isinstance(hostname, str):
            try:
                return hostname.encode(self.HOSTNAME_ENCODING)
            except UnicodeError as error:
                raise UnicodeError(
                    f"encoding with {self.HOSTNAME_ENCODING!r} codec failed ({type(error).__name__}: {error})"
                ) from error
        if not isinstance(hostname, (bytes, bytearray)):
            raise TypeError(f"Expected str, bytes or bytearray, not {type(hostname).__name__}")
        return bytes(hostname)

    def _getaddrinfo(self, host_bytes: bytes, port: Any, family: int, socktype: int, proto: int,
                     flags: int) -> list[Any]:
        """Return what `socket.getaddrinfo` does, with plain numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no _getaddrinfo")

    def _gethostbyname_ex(self, hostname_bytes: bytes, family: int) -> tuple[str, list[str], list[str]]:
        """Return the name, the aliases, and the addresses of *family*, of a host."""
        raise NotImplementedError(f"{type(self).__name__} has no _gethostbyname_ex")

    def _gethostbyaddr(self, ip_address_bytes: bytes) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and addresses of the host with an address or a name."""
        raise NotImplementedError(f"{type(self).__name__} has no _gethostbyaddr")

    def _getnameinfo(self, address_bytes: bytes, port: int, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the names of the host and of the service of *sockaddr*, whose first parts are given before it."""
        raise NotImplementedError(f"{type(self).__name__} has no _getnameinfo")

    def getaddrinfo(self, host: Any, port: Any, family: int = 0, socktype: int = 0, proto: int = 0,
                    flags: int = 0) -> list[Any]:
        """Return the addresses of *host* and *port*."""
        name = b"" if host is None else self._hostname_to_bytes(host)
        if host is None or flags & _socket.AI_NUMERICHOST or name in _LOCAL_NAMES:
            return _socket.getaddrinfo(host, port, family, socktype, proto, flags)
        return self._getaddrinfo(name, port, family, socktype, proto, flags)

    def gethostbyname(self, hostname: Any, family: int = _socket.AF_INET) -> str:
        """Return the first address of *hostname*."""
        return self.gethostbyname_ex(hostname, family)[-1][0]

    def gethostbyname_ex(self, hostname: Any, family: int = _socket.AF_INET) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and addresses of *hostname*."""
        name = self._hostname_to_bytes(hostname)
        if name in _BROADCAST:
            return name.decode(), [], [_socket.gethostbyname(hostname)]
        if name in _LOCAL_NAMES:
            return _socket.gethostbyname_ex(hostname)
        return self._gethostbyname_ex(name or b"0.0.0.0", family)

    def gethostbyaddr(self, ip_address: Any) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and addresses of the host with *ip_address*."""
        name = self._hostname_to_bytes(ip_address)
        if name in _LOCAL_NAMES:
            return _socket.gethostbyaddr(ip_address)
        return self._gethostbyaddr(name)

    def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the host and service names of *sockaddr*."""
        if not isinstance(flags, int):
            raise TypeError("an integer is required")
        if not isinstance(sockaddr, tuple):
            raise TypeError("getnameinfo() argument 1 must be a tuple")
        if not 2 <= len(sockaddr) <= 4:
            raise TypeError("getnameinfo(): illegal sockaddr argument")
        address, port = self._hostname_to_bytes(sockaddr[0]), sockaddr[1]
        if not isinstance(port, int):
            raise TypeError(f"port must be int, not {type(port).__name__}")
        if address in _LOCAL_NAMES:
            return _socket.getnameinfo(sockaddr, flags)
        return self._getnameinfo(address, port, sockaddr, flags)
