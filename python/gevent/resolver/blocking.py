"""The system's look-ups, called directly: the whole thread waits. For debugging."""
import _socket
from typing import Any

__all__ = ["Resolver"]


class Resolver:
    """Looks up names by blocking the thread."""

    def __init__(self, hub: Any = None) -> None:
        pass

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    getaddrinfo = staticmethod(_socket.getaddrinfo)
    gethostbyname = staticmethod(_socket.gethostbyname)
    gethostbyname_ex = staticmethod(_socket.gethostbyname_ex)
    gethostbyaddr = staticmethod(_socket.gethostbyaddr)
    getnameinfo = staticmethod(_socket.getnameinfo)
