"""A Python prompt in a running program, for whoever connects.

It asks for no password, and whoever reaches it can do what the process can: bind it to the loopback address, or to a
unix socket in a folder that only its owner may enter.
"""
import builtins
import code
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from gevent._greenrust import getcurrent
from gevent.pool import Pool
from gevent.server import StreamServer

__all__ = ["BackdoorServer"]

_NAMES = ("stdin", "stdout", "stderr")


class _StreamOfGreenlet:
    """What stands for one of the standard streams: each greenlet that is connected has its own, all others the old."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._streams: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def _stream(self) -> Any:
        return self._streams.get(getcurrent(), self._original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream())


#: Name -> what stands for it in `sys`, while somebody is connected.
_installed: dict[str, _StreamOfGreenlet] = {}


def _give_streams(stream: Any) -> None:
    """Make *stream* the three standard streams of the calling greenlet."""
    for name in _NAMES:
        present = _installed.get(name)
        if present is None or getattr(sys, name) is not present:
            present = _installed[name] = _StreamOfGreenlet(getattr(sys, name))
            setattr(sys, name, present)
        present._streams[getcurrent()] = stream


def _take_streams() -> None:
    """Give the calling greenlet the old streams back; the last one removes what stood for them."""
    for name in _NAMES:
        present = _installed.get(name)
        if present is None:
            continue
        present._streams.pop(getcurrent(), None)
        # If somebody has replaced the stream meanwhile, that one stays, and ours behind it.
        if not present._streams and getattr(sys, name) is present:
            setattr(sys, name, present._original)
            del _installed[name]


class _Connection:
    """A connection as a text file in both directions. Each write is sent at once. Switches."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._lines = conn.makefile("r", encoding="utf-8", errors="replace")

    def write(self, text: str) -> int:
        self._conn.sendall(text.encode(self.encoding, self.errors))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Does nothing: all is sent already."""

    def readline(self, size: int = -1) -> str:
        return self._lines.readline(size)

    def read(self, size: int = -1) -> str:
        return self._lines.read(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._conn.fileno()

    @property
    def closed(self) -> bool:
        return self._lines.closed

    def close(self) -> None:
        # What quit() does to the standard input.
        self._lines.close()


class _Console(code.InteractiveConsole):
    """Python's interactive console, on a connection."""

    def __init__(self, connection: _Connection, locals: dict[str, Any]) -> None:
        super().__init__(locals)
        self._connection = connection

    def raw_input(self, prompt: str = "") -> str:
        self._connection.write(prompt)
        line = self._connection.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    def write(self, data: str) -> None:
        self._connection.write(data)


class BackdoorServer(StreamServer):
    """A server whose clients get an interactive Python prompt, over TCP or a unix socket.

    *listener* and *server_args* are those of `gevent.server.StreamServer`. *locals* is a mapping of names that are
    there at the prompt; each connection has a dictionary of its own. *banner* is a text that each client sees first
    (by default that of Python's own prompt). `stop` kills the greenlets of those who are connected.

    In the greenlet of a connection, and in no other, the standard streams are the connection.
    """

    def __init__(self, listener: Any, locals: Mapping[str, Any] | None = None, banner: str | None = None,
                 **server_args: Any) -> None:
        super().__init__(listener, spawn=Pool(), **server_args)
        self.locals = {"__doc__": None, "__name__": "__console__", **(locals or {})}
        self.banner = banner

    def _create_interactive_locals(self) -> dict[str, Any]:
        # As the module, not as its dictionary, which would fill the screen when somebody looks at locals().
        return {**self.locals, "__builtins__": builtins}

    def handle(self, conn: Any, _address: Any) -> None:
        """Serve one client until it leaves. Switches."""
        connection = _Connection(conn)
        _give_streams(connection)
        try:
            _Console(connection, self._create_interactive_locals()).interact(banner=self.banner, exitmsg="")
        except (SystemExit, ConnectionError):
            # It said quit(), or has gone without a word.
            pass
        finally:
            _take_streams()
            connection.close()
            conn.close()


def _main(arguments: list[str]) -> None:
    if not arguments:
        sys.exit("usage: python -m gevent.backdoor [HOST:]PORT [BANNER]")
    host, _, port = arguments[0].rpartition(":")
    banner = arguments[1] if len(arguments) > 1 else None
    BackdoorServer((host or "127.0.0.1", int(port)), banner=banner).serve_forever()


if __name__ == "__main__":
    _main(sys.argv[1:])
