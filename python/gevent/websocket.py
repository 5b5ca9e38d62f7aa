"""WebSockets (RFC 6455) for applications of `gevent.pywsgi`.

A request that asks for a WebSocket has one in its environment, `environ["wsgi.websocket"]`. The handshake is answered
when the application first receives or sends, or by `WebSocket.accept`; an application that answers by an ordinary
response refuses it. When the application returns, what is still open is closed.

`application` makes a WSGI application of a function that takes a WebSocket. What a server allows is its attribute
`websocket_options`, an `Options`. The objects have the methods and attributes of gevent-websocket's.
"""
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from gevent._greenrust import WebSocket, WebSocketError

__all__ = ["Options", "WebSocket", "WebSocketError", "application"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a server allows its WebSockets, and how long it waits. Raises ValueError for a value out of range.

    The limits of RFC 7692, section 7.1.2, are those of `window_bits`.
    """

    #: The largest message taken, in bytes after decompression; a larger one closes the connection by code 1009.
    max_message_size: int = 1 << 20
    #: Whether messages are compressed (permessage-deflate) when the client offers it.
    compression: bool = True
    #: The work that compression takes, from 1 to 9.
    compression_level: int = 6
    #: Compression looks back 2 to this power of bytes, 9 to 15. A connection that sends compressed messages takes
    #: 144 KiB of memory with 12, and 256 KiB with 15.
    window_bits: int = 12
    #: Whether a compressed message may refer to earlier ones: smaller messages, but memory is held between them.
    keeps_context: bool = True
    #: A ping is sent when nothing has come for this many seconds while a greenlet receives; None never sends one.
    ping_interval: float | None = 20.0
    #: A peer from which nothing comes for this many seconds after a ping is given up; None waits for ever.
    ping_timeout: float | None = 20.0
    #: How many seconds closing waits for the peer to close as well.
    close_timeout: float = 5.0

    def __post_init__(self) -> None:
        integers = (("max_message_size", 1, 1 << 40), ("compression_level", 1, 9), ("window_bits", 9, 15))
        for name, least, most in integers:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{name} must be an integer from {least} to {most}, not {value!r}")
        for name in ("ping_interval", "ping_timeout", "close_timeout"):
            value = getattr(self, name)
            if value is None and name != "close_timeout":
                continue
            if not isinstance(value, int | float) or not 0 <= value < 1e9 or (value == 0 and name != "close_timeout"):
                raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")


def application(
    function: Callable[[WebSocket], object],
    fallback: Callable[..., Iterable[bytes]] | None = None,
    *,
    subprotocols: Collection[str] = (),
    origins: Collection[str] | None = None,
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Return a WSGI application that calls *function* with the WebSocket of each request that asks for one.

    *function* runs in the connection's greenlet; when it returns, the WebSocket is closed. *fallback* is the WSGI
    application for all other requests, which are else answered by 426. The first of *subprotocols* that the client
    offers is chosen. With *origins*, requests of pages from elsewhere are answered by 403; browsers let any page open a
    WebSocket to any host, with the user's cookies, so a service that trusts cookies needs it.
    """

    def websocket_application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        websocket = environ.get("wsgi.websocket")
        if websocket is None:
            if fallback is not None:
                return fallback(environ, start_response)
            body = b"This resource is a WebSocket.\n"
            start_response("426 Upgrade Required", [
                ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
                ("Content-Type", "text/plain"), ("Content-Length", str(len(body))),
            ])
            return [body]
        if origins is not None and websocket.origin is not None and websocket.origin not in origins:
            start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
        offered = websocket.offered_subprotocols
        websocket.accept(next((name for name in subprotocols if name in offered), None))
        function(websocket)
        return []

    return websocket_application
