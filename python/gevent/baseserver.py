"""The base of servers: an address, a handler, how a handler is run, starting and stopping."""
import _socket
import errno
import sys
from collections.abc import Callable
from typing import Any, Self

from gevent._greenrust import Event, Greenlet, get_hub, spawn_raw
from gevent.pool import Pool

__all__ = ["BaseServer"]


def _handle_and_close(handle: Callable[..., Any], close: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return handle(*args)
    finally:
        close(*args)


class BaseServer:
    """A server on *listener* that runs *handle* for each client.

    *listener* is an address (a pair, "host:port", ":port", a port) or a bound socket. *spawn* says how a handler is
    run: "default" in a `Greenlet`, an int or a Pool in a pool of that size, whose being full stops accepting, another
    callable in what that makes, "raw" by `gevent.spawn_raw`, None in the hub (where it must not block). The client's
    socket is closed when the handler returns. A context manager that stops the server when it is left.
    """

    #: Seconds to pause after an error of accepting; doubled with each up to `max_delay`. Negative: no pause.
    min_delay: float = 0.01
    max_delay: float = 1
    #: How many connections are accepted before others get a turn.
    max_accept = 100
    _spawn: Any = Greenlet.spawn
    #: Seconds that `stop` waits for handlers in a pool before it kills them.
    stop_timeout: float = 1
    #: Error numbers of accepting that end the server.
    fatal_errors = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK)

    socket: Any
    address: Any

    def __init__(self, listener: Any, handle: Callable[..., Any] | None = None, spawn: Any = "default") -> None:
        self._stop_event = Event()
        self._stop_event.set()
        self._watcher: Any = None
        self._timer: Any = None
        self._will_read = False
        self._handle: Any = None
        self.pool: Any = None
        try:
            self.set_listener(listener)
            self.set_spawn(spawn)
            self.set_handle(handle)
            self.delay = self.min_delay
            self.loop = get_hub().loop
            if self.max_accept < 1:
                raise ValueError(f"max_accept must be positive int: {self.max_accept!r}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: Any) -> None:
        self.stop()

    def set_listener(self, listener: Any) -> None:
        """Set what the server listens on. Raises TypeError for a TLS socket, ValueError for no address."""
        if hasattr(listener, "accept"):
            if hasattr(listener, "do_handshake"):
                raise TypeError(f"Expected a regular socket, not SSLSocket: {listener!r}")
            self.family = listener.family
            self.address = listener.getsockname()
            self.socket = listener
        else:
            self.family, self.address = parse_address(listener)

    def set_spawn(self, spawn: Any) -> None:
        """Set how handlers are run."""
        self.pool = None
        if isinstance(spawn, str) and spawn == "default":
            self._spawn = self._spawn
        elif hasattr(spawn, "spawn"):
            self.pool = spawn
            self._spawn = spawn.spawn
        elif isinstance(spawn, int):
            self.pool = Pool(spawn)
            self._spawn = self.pool.spawn
        elif isinstance(spawn, str) and spawn == "raw":
            self._spawn = spawn_raw
        elif spawn is None or callable(spawn):
            self._spawn = spawn
        else:
            raise TypeError("spawn must be 'default', 'raw', a pool, an integer, a callable or None, "
                            f"not {type(spawn).__name__}: {spawn!r}")
        if hasattr(self.pool, "full"):
            self.full = self.pool.full
        if self.pool is not None:
            self.pool._semaphore.rawlink(self._start_accepting_if_started)

    def set_handle(self, handle: Callable[..., Any] | None) -> None:
        """Set the handler. Raises TypeError when there is neither *handle* nor a method `handle`."""
        if handle is not None:
            self.handle = handle
        if not hasattr(self, "handle"):
            raise TypeError("'handle' must be provided")
        self._handle = self.handle

    # -- accepting ------------------------------------------------------------------------------------------

    def _start_accepting_if_started(self, _event: Any = None) -> None:
        if self.started:
            self.start_accepting()

    def start_accepting(self) -> None:
        """Begin to accept clients."""
        if self._watcher is None:
            self._watcher = self.loop.io(self.socket.fileno(), 1)
            self._watcher.start(self._on_readable)

    def stop_accepting(self) -> None:
        """Accept no clients for now."""
        for name in ("_watcher", "_timer"):
            watcher = getattr(self, name)
            if watcher is not None:
                setattr(self, name, None)
                watcher.stop()
                watcher.close()

    def do_handle(self, *args: Any) -> None:
        """Run the handler for a client."""
        spawn, handle, close = self._spawn, self._handle, self.do_close
        try:
            if spawn is None:
                _handle_and_close(handle, close, args)
            else:
                spawn(_handle_and_close, handle, close, args)
        except BaseException:
            close(*args)
            raise

    def do_close(self, *args: Any) -> None:
        """Free what belongs to a client; for subclasses."""

    def do_read(self) -> Any:
        """Return the arguments of the handler for the next client, or None; for subclasses."""
        raise NotImplementedError

    def _pause(self) -> None:
        if self.delay < 0:
            return
        self.stop_accepting()
        self._timer = self.loop.timer(self.delay)
        self._timer.start(self._start_accepting_if_started)
        self.delay = min(self.max_delay, self.delay * 2)

    def _on_readable(self) -> None:
        # Runs in the hub. Greenlets that were woken in the same round get their turn first: if one of them closes the
        # server, nothing is accepted that would find it closed, and other processes get the connection.
        if not self._will_read:
            self._will_read = True
            self.loop.run_callback(self._read_if_accepting)

    def _read_if_accepting(self) -> None:
        self._will_read = False
        if self._watcher is not None:
            self._do_read()

    def _do_read(self) -> None:
        # Runs in the hub, whenever the listener is readable.
        for _ in range(self.max_accept):
            if self.full():
                self.stop_accepting()
                if self.pool is not None:
                    self.pool._semaphore.rawlink(self._start_accepting_if_started)
                return
            try:
                args = self.do_read()
                self.delay = self.min_delay
                if not args:
                    return
            except BaseException as error:
                get_hub().handle_error(self, *sys.exc_info())
                if self.is_fatal_error(error):
                    self.close()
                    sys.stderr.write(f"ERROR: {self} failed with {str(error) or repr(error)}\n")
                    return
                self._pause()
                return
            try:
                self.do_handle(*args)
            except BaseException:
                get_hub().handle_error((args[1:], self), *sys.exc_info())
                self._pause()
                return

    def full(self) -> bool:
        """Return True when no client can be handled now; the pool's, if there is one."""
        return False

    def is_fatal_error(self, ex: BaseException) -> bool:
        """Return True when the error *ex* of accepting is to end the server."""
        return isinstance(ex, OSError) and ex.args[0] in self.fatal_errors

    # -- description ----------------------------------------------------------------------------------------

    def _formatinfo(self) -> str:
        parts = []
        if hasattr(self, "socket"):
            parts.append(f"fileno={self.socket.fileno()}")
        address = getattr(self, "address", None)
        if isinstance(address, tuple) and len(address) == 2:
            parts.append("address={}:{}".format(*address))
        else:
            parts.append(f"address={address}")
        handle = self.__dict__.get("handle")
        if handle is not None:
            if getattr(handle, "__self__", None) is self:
                parts.append(f"handle=<bound method {type(self).__name__}.{handle.__name__} of self>")
            else:
                parts.append(f"handle={handle!r}")
        return " ".join(parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._formatinfo()}>"

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self._formatinfo()}>"

    @property
    def server_host(self) -> str | None:
        """The IP address that the server is bound to."""
        return self.address[0] if isinstance(self.address, tuple) else None

    @property
    def server_port(self) -> int | None:
        """The port that the server is bound to."""
        return self.address[1] if isinstance(self.address, tuple) else None

    # -- starting and stopping ------------------------------------------------------------------------------

    def init_socket(self) -> None:
        """Make the listening socket, if the server was given an address; for subclasses."""

    @property
    def started(self) -> bool:
        """True between `start` and `close`."""
        return not self._stop_event.is_set()

    @property
    def closed(self) -> bool:
        """True when there is no listening socket."""
        return not hasattr(self, "socket")

    def start(self) -> None:
        """Bind, listen and begin to accept. Returns at once."""
        self.init_socket()
        self._stop_event.clear()
        try:
            self.start_accepting()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop accepting and close the listening socket; handlers go on."""
        self._stop_event.set()
        try:
            self.stop_accepting()
        finally:
            listener = self.__dict__.pop("socket", None)
            for name in ("handle", "_handle", "_spawn", "full"):
                self.__dict__.pop(name, None)
            if self.pool is not None:
                self.pool._semaphore.unlink(self._start_accepting_if_started)
            if listener is not None:
                self._close_listener(listener)

    def _close_listener(self, listener: Any) -> None:
        listener.close()

    def stop(self, timeout: float | None = None) -> None:
        """Close, and wait for the handlers in the pool for *timeout* seconds (`stop_timeout`); then kill them.

        Without a pool, handlers go on. Switches.
        """
        self.close()
        self._end_handlers(self.stop_timeout if timeout is None else timeout)

    def _end_handlers(self, timeout: float) -> None:
        if self.pool:
            self.pool.join(timeout=timeout)
            self.pool.kill(block=True, timeout=1)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start if need be, and wait until the server is stopped; then `stop` with *stop_timeout*. Switches."""
        if not self.started:
            self.start()
        try:
            self._stop_event.wait()
        finally:
            # In a greenlet of its own, which an exception that is on its way here does not end.
            Greenlet.spawn(self.stop, timeout=stop_timeout).join()


def _parse_address(address: Any) -> tuple[Any, Any]:
    if isinstance(address, tuple):
        ipv6 = not address[0] or ":" in address[0]
        return (_socket.AF_INET6 if ipv6 else _socket.AF_INET), address
    if isinstance(address, int) or (isinstance(address, str) and ":" not in address):
        # Only a port: all addresses of both families.
        return _socket.AF_INET6, ("", int(address))
    if not isinstance(address, str):
        raise TypeError(f"Expected tuple or string, got {type(address)}")
    host, port = address.rsplit(":", 1)
    family = _socket.AF_INET
    if host.startswith("[") and host.endswith("]"):
        family, host = _socket.AF_INET6, host[1:-1]
    return family, ("" if host == "*" else host, int(port))


def parse_address(address: Any) -> tuple[Any, Any]:
    """Return the address family and the socket address that *address* means.

    A pair (host, port), "host:port", "[host]:port", a port. Raises ValueError or TypeError for anything else.
    """
    try:
        return _parse_address(address)
    except ValueError as error:
        raise ValueError(f"Failed to parse address {address!r}: {error}") from None
