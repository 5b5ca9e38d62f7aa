"""Look-ups by the runtime itself: the hosts file, and name servers asked over sockets of the hub, without threads.

`docs/dns.md` says what it reads and in which order it looks, and when it is the better choice.
"""
from collections.abc import Iterable
from typing import Any

from gevent._config import config
from gevent._greenrust import NativeResolver, get_hub
from gevent.exceptions import InvalidThreadUseError

__all__ = ["Resolver"]


class Resolver:
    """Looks up names without threads. Each method has the signature, results and errors of the function in `socket`.

    A look-up switches unless the answer is known: from the hosts file, from digits, or from an earlier look-up whose
    time to live is not over.

    *servers*: addresses of the name servers, each with a port if need be ("192.0.2.1:5353"), as a list or separated by
    commas; by default the setting `resolver_nameservers`, or those of resolv.conf. *timeout*: seconds that a server is
    given to answer. *tries*: how often all servers are asked. *ndots*: how many dots make a name one that is tried
    before the search domains are appended. *udp_port*, *tcp_port*: ports of servers that were given without.
    *lifetime*: seconds for a look-up as a whole, by default the setting `resolver_timeout`. *use_tcp*: True asks over
    TCP only. *first_server_only*: True leaves the other servers out. *search*: False leaves the search domains out.
    *recursive*: False asks servers for what they know themselves alone. *ignore_truncation*: True takes what a datagram
    had room for as the whole answer. *hosts*, *resolv_conf*: paths of these files. What is None is as the files say.

    Raises ValueError for a server that is no address and for a number that is out of its range, InvalidThreadUseError
    when *hub* is another thread's.
    """

    def __init__(
        self,
        hub: Any = None,
        *,
        servers: str | Iterable[str] | None = None,
        timeout: float | str | None = None,
        tries: int | str | None = None,
        ndots: int | str | None = None,
        udp_port: int | str | None = None,
        tcp_port: int | str | None = None,
        lifetime: float | None = None,
        use_tcp: bool = False,
        first_server_only: bool = False,
        search: bool = True,
        recursive: bool = True,
        ignore_truncation: bool = False,
        hosts: str = "/etc/hosts",
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        if hub is not None and hub is not get_hub():
            raise InvalidThreadUseError("a resolver can be made by the thread of its hub alone")
        if servers is None:
            servers = config.resolver_nameservers
        if isinstance(servers, str):
            servers = servers.split(",")
        self._native = NativeResolver(
            servers=None if servers is None else [server.strip() for server in servers],
            timeout=None if timeout is None else float(timeout),
            tries=_whole(tries, "tries", 1, 100),
            ndots=_whole(ndots, "ndots", 0, 255),
            udp_port=_whole(udp_port, "udp_port", 1, 65535),
            tcp_port=_whole(tcp_port, "tcp_port", 1, 65535),
            lifetime=config.resolver_timeout if lifetime is None else lifetime,
            use_tcp=use_tcp,
            first_server_only=first_server_only,
            search=search,
            recursive=recursive,
            ignore_truncation=ignore_truncation,
            hosts=hosts,
            resolv_conf=resolv_conf,
        )

    def __repr__(self) -> str:
        servers = ", ".join(self._native.servers())
        return f"<{type(self).__module__}.{type(self).__name__} at {id(self):#x} servers={servers}>"

    def close(self) -> None:
        """Close the sockets and forget all answers; a look-up that waits fails with gaierror. It can be used again."""
        self._native.close()

    def _on_fork(self) -> None:
        # The questions that wait are asked anew, by sockets of this process.
        self._native.after_fork()

    def getaddrinfo(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0,
                    flags: int = 0) -> list[Any]:
        """Return the addresses of *host* and *port*, those that are best tried first in front (RFC 6724). Switches."""
        return self._native.getaddrinfo(host, port, family, type, proto, flags)

    def gethostbyname(self, hostname: Any) -> str:
        """Return the IPv4 address of *hostname*. Switches."""
        return self._native.gethostbyname(hostname)

    def gethostbyname_ex(self, hostname: Any) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and IPv4 addresses of *hostname*. Switches."""
        return self._native.gethostbyname_ex(hostname)

    def gethostbyaddr(self, ip_address: Any) -> tuple[str, list[str], list[str]]:
        """Return the name, aliases and addresses of the host with *ip_address*, which may be a name. Switches."""
        return self._native.gethostbyaddr(ip_address)

    def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the host and service names of *sockaddr*. Switches."""
        return self._native.getnameinfo(sockaddr, flags)


def _whole(value: Any, name: str, least: int, most: int) -> int | None:
    """Return a whole number that may be given as text, as environment variables are."""
    if value is None:
        return None
    number = int(value)
    if not least <= number <= most:
        raise ValueError(f"{name} must be between {least} and {most}, not {number}")
    return number
