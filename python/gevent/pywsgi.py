"""A WSGI server for HTTP/1.1 (PEP 3333, RFC 9112).

The life of a request is native: `gevent._greenrust.WSGIHandler`. Here are the server, what is run rarely, and what
logs and prints.
"""
import errno
import importlib
import io
import os
import resource
import runpy
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import client
from ssl import SSLEOFError as _SSLEOFError
from ssl import SSLError as _SSLError
from typing import Any

from gevent import socket, version_info
from gevent._greenrust import (
    Event,
    Greenlet,
    GreenletExit,
    WSGIService,
    accept_connections,
    getcurrent,
    serve_connection,
    set_pywsgi_classes,
)
from gevent._greenrust import Input as Input
from gevent._greenrust import WSGIHandler as _NativeHandler
from gevent._greenrust import format_date_time as format_date_time
from gevent._workers import Supervisor
from gevent.hub import get_hub
from gevent.select import _native_poll as _poll
from gevent.server import StreamServer, listen
from gevent.websocket import Options as WebSocketOptions

__all__ = ["WSGIServer", "WSGIHandler", "LoggingLogAdapter", "Environ", "SecureEnviron", "WSGISecureEnviron"]

#: The longest request line, in bytes; a longer one is answered by 414.
MAX_REQUEST_LINE = 8192

#: Status, headers and body of the responses to errors, by status code.
_ERRORS: dict[int, tuple[str, list[tuple[str, str]], bytes]] = {
    code: (status, [("Content-Type", "text/plain"), ("Connection", "close"), ("Content-Length", str(len(body)))], body)
    for code, status, body in (
        (400, "400 Bad Request", b""),
        (408, "408 Request Timeout", b""),
        (413, "413 Content Too Large", b""),
        (500, "500 Internal Server Error", b"Internal Server Error"),
    )
}


class _InvalidClientInput(IOError):
    """The body of a request is malformed, too large or too slow: the connection can't be used any more.

    `status_code` is that of the response.
    """

    status_code = 400


class _InvalidClientRequest(ValueError):
    """The head of a request is refused.

    *message* is for the log; `status_code` is that of the response.
    """

    status_code = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.formatted_message = message


class OldMessage(client.HTTPMessage):
    """The fields of a request: `http.client.HTTPMessage` with the older names that handlers use."""

    status = ""

    def getheader(self, name: str, default: Any = None) -> Any:
        """Return the value of the first field *name*, or *default*."""
        return self.get(name, default)

    @property
    def headers(self) -> Iterator[str]:
        """The fields as lines."""
        return (f"{name}: {value}\r\n" for name, value in self.items())

    @property
    def typeheader(self) -> str | None:
        """The value of Content-Type."""
        return self.get("content-type")


def headers_factory(fp: Any, *args: Any) -> OldMessage:
    """Read the fields of a head from the file *fp* and return them."""
    try:
        return client.parse_headers(fp, _class=OldMessage)
    except client.LineTooLong:
        message = OldMessage()
        message.status = "Line too long"
        return message


class WSGIHandler(_NativeHandler):
    """Serves the requests of one connection: ``WSGIHandler(socket, address, server).handle()``.

    Subclasses override steps of it. A step that no subclass overrides runs without a Python frame.
    """

    protocol_version = "HTTP/1.1"

    #: What is raised when an application breaks the rules.
    ApplicationError = AssertionError

    #: Error numbers of sockets that mean no more than that the client has gone: they are not reported.
    ignored_socket_errors = (errno.EPIPE, errno.ECONNRESET)

    _print_unexpected_exc = staticmethod(traceback.print_exc)

    def MessageClass(self, *args: Any) -> Any:
        """Make the object that `headers` is, of a file with the fields."""
        return headers_factory(*args)

    def log_error(self, msg: str, *args: Any) -> None:
        """Write *msg*, formatted with *args* if there are any, to the server's error log."""
        message = msg
        if args:
            try:
                message = msg % args
            except Exception:
                self._print_unexpected_exc()
                message = f"{msg!r} {args!r}"
        try:
            self.server.error_log.write(f"{self.socket}: {message}\n")
        except Exception:
            self._print_unexpected_exc()

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """Report an exception of the application, and answer by 500 if nothing was sent yet. Switches."""
        self._log_error(t, v, tb)
        del v, tb
        self._send_error_response_if_possible(500)

    def _log_error(self, t: Any, v: Any, tb: Any) -> None:
        if issubclass(t, GreenletExit):
            return
        context = self.environ
        secure = self.server.secure_environ_class
        if not isinstance(context, secure):
            context = secure(context or {})
        get_hub().handle_error(context, t, v, tb)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        if self.headers_sent or self.response_length or self.connection_upgraded:
            self.close_connection = True
            return
        status, headers, body = _ERRORS.get(error_code, _ERRORS[400])
        try:
            self.start_response(status, headers[:])
            self.write(body)
        except OSError:
            self.close_connection = True

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        """Log what the client did wrong and return the status and bytes of the answer."""
        if not isinstance(ex, ValueError | _InvalidClientInput):
            traceback.print_exc()
        if isinstance(ex, _InvalidClientRequest):
            self.log_error("(from %s) %s", self.client_address, ex.formatted_message)
        else:
            self.log_error("Invalid request (from %s): %s", self.client_address, str(ex) or type(ex).__name__)
        code = getattr(ex, "status_code", 400)
        head = f"HTTP/1.1 {code} {client.responses.get(code, '')}\r\nConnection: close\r\nContent-length: 0\r\n\r\n"
        return str(code), head.encode("ascii")


class _NoopLog:
    """A log that writes nothing, with the methods that a WSGI validator looks for."""

    def write(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def writelines(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class FileWrapper:
    """What `wsgi.file_wrapper` makes of a file-like object: an iterable of its blocks (PEP 3333).

    A regular file that was opened for reading bytes is sent by the kernel (sendfile), from where it is positioned, when
    an application returns the wrapper itself.
    """

    def __init__(self, filelike: Any, blksize: int = 65536) -> None:
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        """The blocks."""
        return iter(lambda: self.filelike.read(self.blksize), b"")

    def _extent(self) -> tuple[int, int, int] | None:
        # Descriptor, position, bytes from there. Other classes, gzip's for instance, show a descriptor whose bytes are
        # not those that they would read.
        file = self.filelike
        raw = file.raw if type(file) is io.BufferedReader else file
        if type(raw) is not io.FileIO or not raw.readable():
            return None
        status = os.fstat(raw.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        position = file.tell()
        return raw.fileno(), position, max(0, status.st_size - position)


class LoggingLogAdapter:
    """Makes a `logging.Logger` a log of a server: what is written becomes a record of *level*.

    All else that is asked of it is asked of the logger. Loggers take locks: patch the threading module before
    handlers are made, else a thread that holds one stops the hub.
    """

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: Any, level: int = 20) -> None:
        object.__setattr__(self, "_logger", logger)
        object.__setattr__(self, "_level", level)

    def write(self, msg: str) -> None:
        """Log *msg* without the line feed at its end."""
        self._logger.log(self._level, msg.removesuffix("\n"))

    def flush(self) -> None:
        """Do nothing."""

    def writelines(self, lines: Iterable[str]) -> None:
        """Log each of *lines*."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in LoggingLogAdapter.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._logger, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._logger, name)


class Environ(dict[str, Any]):
    """A dictionary for WSGI environments. Pickling and deep copies give plain dictionaries."""

    __slots__ = ()

    def copy(self) -> "Environ":
        """Return a shallow copy of the same class."""
        return type(self)(self)

    def iteritems(self) -> Any:
        """Return the items."""
        return self.items()

    def __reduce_ex__(self, proto: Any) -> Any:
        return dict, (), None, None, iter(self.items())


class SecureEnviron(Environ):
    """An environment whose repr shows no values but those of the keys in `whitelist_keys`.

    `secure_repr`, `whitelist_keys` and `print_masked_keys` can be set on an object; a class gives what they are else by
    `default_secure_repr`, `default_whitelist_keys` and `default_print_masked_keys`.
    """

    default_secure_repr = True
    default_whitelist_keys: Any = ()
    default_print_masked_keys = True

    __slots__ = ("print_masked_keys", "secure_repr", "whitelist_keys")

    def __getattr__(self, name: str) -> Any:
        if name in SecureEnviron.__slots__:
            return getattr(type(self), f"default_{name}")
        raise AttributeError(name)

    def __repr__(self) -> str:
        if not self.secure_repr:
            return dict.__repr__(self)
        shown = self.whitelist_keys
        if not shown:
            return f"<pywsgi.SecureEnviron dict (keys: {len(self)}) at {id(self)}>"
        visible = {key: value for key, value in self.items() if key in shown}
        if self.print_masked_keys:
            return repr({key: visible.get(key, "<MASKED>") for key in self})
        hidden = len(self) - len(visible)
        text = repr(visible)
        return f"{text[:-1]}, (hidden keys: {hidden})}}" if hidden else text

    __str__ = __repr__


class WSGISecureEnviron(SecureEnviron):
    """Shows who sent a request and to which host."""

    default_whitelist_keys = ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST")
    default_print_masked_keys = False


class WSGIServer(StreamServer):
    """Serves *application* on *listener*, a greenlet for each connection; with *ssl_args*, over TLS.

    *log* gets a line for each request, *error_log* what clients do wrong, and is `wsgi.errors`: objects with a method
    `write`, or loggers; None writes nothing; the default is sys.stderr. *handler_class* is called with a socket, the
    address of the client and the server, and returns an object with a method `handle`. *environ* is added to the
    environment of each request. *backlog* and *spawn* are those of `StreamServer`.

    The others are greenrust's own. Sizes are in bytes, times in seconds; the default is in brackets:

    - *max_request_line* (8192): a longer request line is answered by 414.
    - *max_header_bytes* (65536), *max_header_count* (100): more fields are answered by 431.
    - *max_body_bytes* (None: no limit): a larger body is answered by 413.
    - *require_host* (True): HTTP/1.1 without Host is answered by 400 (RFC 9112 section 3.2).
    - *header_timeout* (30, None: no limit): from a connection's begin, or a head's first byte, to its last; then 408.
      A TLS handshake has as long.
    - *body_timeout* (60, None: no limit): between two pieces of a body; then 408.
    - *write_timeout* (60, None: no limit): a client that takes nothing of a response for so long is cut off.
    - *keep_alive_timeout* (75, None: no limit): how long a connection may be idle between requests.
    - *first_request_timeout* (5, None: no limit): how long, when the server is being stopped, a connection that has had
      no answer yet may take for its TLS handshake and first request, and one that has begun a head for its rest; no
      longer than *header_timeout*, and than `stop` waits.
    - *max_connections* (the process's limit of open files less 64, or half of it): with so many, the connection that
      has waited longest for a head is closed for a new one, if it has for a second; if none has, the new one waits.
    - *log_format* (None: gevent's lines): "json", or a string with directives of Apache's mod_log_config, of which
      there are %a %h %p %l %u %t %r %m %U %q %H %s %b %B %O %D %T %P %{Name}i %{Name}o %%.
    - *server_header* (None): the value of Server in responses that have none.
    - *trusted_proxies* (none): addresses, networks, "*" or "unix"; what such a peer sends as X-Forwarded-For and
      X-Forwarded-Proto gives REMOTE_ADDR and wsgi.url_scheme.
    - *proxy_protocol* (False): each connection begins with a header of the PROXY protocol, version 1 or 2.
    - *reuse_port* (False): other sockets, of other processes for instance, may listen on the same address.
    - *workers* (None: this process): `serve_forever` forks so many processes that accept from the same socket,
      replaces those that die, drains and ends them at SIGTERM or SIGINT, and at SIGHUP replaces all of them.

    *application* may be a string, "module:callable", which is imported when the server starts: in each worker.

    Raises what `StreamServer` does, and TypeError or ValueError for a parameter that makes no sense. Making a server
    does not switch.
    """

    handler_class: Any = WSGIHandler

    #: Where the requests are logged. Never None.
    log: Any = None
    #: Where errors are logged. Never None.
    error_log: Any = None

    #: The class of environments that applications are given. PEP 3333 wants a plain dict.
    environ_class: Any = dict
    #: The class of environments that errors are reported with.
    secure_environ_class: Any = WSGISecureEnviron

    #: What WebSockets are allowed; with None no environment has one.
    websocket_options: WebSocketOptions | None = WebSocketOptions()

    base_env: Mapping[str, Any] = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "gevent/{}.{} Python/{}.{}".format(*version_info[:2], *sys.version_info[:2]),
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }

    application: Any
    environ: Any

    def __init__(self, listener: Any, application: Callable[..., Any] | None = None, backlog: int | None = None,
                 spawn: Any = "default", log: Any = "default", error_log: Any = "default",
                 handler_class: Any = None, environ: Any = None, *,
                 max_request_line: int | None = None, max_header_bytes: int | None = None,
                 max_header_count: int | None = None, max_body_bytes: int | None = None, require_host: bool = True,
                 header_timeout: float | None = 30, body_timeout: float | None = 60,
                 write_timeout: float | None = 60, keep_alive_timeout: float | None = 75,
                 first_request_timeout: float | None = 5,
                 max_connections: int | None = None, log_format: str | None = None,
                 server_header: str | None = None, trusted_proxies: Any = None, proxy_protocol: bool = False,
                 reuse_port: bool = False, workers: int | None = None, **ssl_args: Any) -> None:
        if "handle" in ssl_args:
            warnings.warn("'handle' takes the place of WSGIServer.handle; an application is given as 'application'",
                          DeprecationWarning, stacklevel=2)
        self._service = WSGIService({
            "max_request_line": max_request_line, "max_header_bytes": max_header_bytes,
            "max_header_count": max_header_count, "max_body_bytes": max_body_bytes, "require_host": require_host,
            "header_timeout": header_timeout, "body_timeout": body_timeout, "write_timeout": write_timeout,
            "keep_alive_timeout": keep_alive_timeout, "first_request_timeout": first_request_timeout,
            "log_format": log_format, "server_header": server_header,
            "trusted_proxies": trusted_proxies, "proxy_protocol": proxy_protocol,
            "max_connections": _most_connections() if max_connections is None else max_connections,
        })
        self._handshake_timeout = header_timeout
        # How long `stop` is going to wait.
        self._stop_patience: float | None = None
        self._changed = Event()
        # Accepted when there was no room.
        self._surplus: Any = None
        self.reuse_port = reuse_port
        if workers is not None and (type(workers) is not int or workers < 1):
            raise (ValueError if type(workers) is int else TypeError)(
                f"workers must be an integer of 1 or more, or None, not {workers!r}")
        self.workers = workers
        super().__init__(listener, backlog=backlog, spawn=spawn, **ssl_args)
        if application is not None:
            self.application = application
        if handler_class is not None:
            self.handler_class = handler_class
        self.log = _as_log(log, 20)
        self.error_log = _as_log(error_log, 40)
        self.set_environ(environ)
        self.set_max_accept()

    def set_environ(self, environ: Any = None) -> None:
        """Make the environment that each request begins with, of `base_env` and *environ*."""
        added = environ if environ is not None else getattr(self, "environ", None)
        self.environ = self.environ_class(self.base_env)
        self.environ["wsgi.url_scheme"] = "https" if self.ssl_enabled else "http"
        if added is not None:
            self.environ.update(added)
        if self.environ.get("wsgi.errors") is None:
            self.environ["wsgi.errors"] = self.error_log

    def set_max_accept(self) -> None:
        """Accept one connection at a time if other processes accept from the same socket."""
        if self.environ.get("wsgi.multiprocess"):
            self.max_accept = 1

    def get_environ(self) -> Any:
        """Return the environment that a request begins with."""
        return self.environ_class(self.environ)

    def init_socket(self) -> None:
        """Make the listening socket, if the server was given an address."""
        if self.reuse_port and not hasattr(self, "socket"):
            self.socket = listen(self.address, self.backlog, self.family, self.reuse_addr, reuse_port=True)
            self.address = self.socket.getsockname()
        super().init_socket()
        if self.ssl_args:
            self._handle = self._handle_by_tls
        self.update_environ()

    def update_environ(self) -> None:
        """Set SERVER_NAME and SERVER_PORT by the address that the server is bound to. May switch."""
        address = self.address
        if not isinstance(address, tuple):
            self.environ.setdefault("SERVER_NAME", "")
            self.environ.setdefault("SERVER_PORT", "")
            return
        if "SERVER_NAME" not in self.environ:
            try:
                self.environ["SERVER_NAME"] = socket.getfqdn(address[0])
            except OSError:
                self.environ["SERVER_NAME"] = str(address[0])
        self.environ.setdefault("SERVER_PORT", str(address[1]))

    def start(self) -> None:
        """Bind, listen and begin to accept. Returns at once.

        Raises what importing the application does, if it was given as a string.
        """
        if isinstance(self.application, str):
            self.application = _load(self.application)
        self._service.reopen()
        self._service.may_doze = self._spawn == Greenlet.spawn
        self._service.on_change = self._on_change
        super().start()

    def _do_read(self) -> None:
        # Runs in the hub.
        try:
            # Who was accepted when there was no room comes first.
            has_accepted = not self._surplus and accept_connections(self)
        except BaseException:
            get_hub().handle_error(self, *sys.exc_info())
            self._pause()
            return
        if has_accepted:
            self.delay = self.min_delay
        else:
            super()._do_read()

    def do_read(self) -> Any:
        """Accept a connection, if there may be another: returns its socket and address, or None."""
        accepted, self._surplus = self._surplus or super().do_read(), None
        if accepted and not self._service.make_room():
            self._surplus = accepted
            self.stop_accepting()
            return None
        return accepted

    def do_handle(self, sock: Any, address: Any) -> None:
        """Serve a connection in a greenlet."""
        try:
            seat = self._service.enter(sock.fileno())
            if self._spawn is None:
                serve_connection(self._handle, self.do_close, sock, address, seat)
            else:
                self._spawn(serve_connection, self._handle, self.do_close, sock, address, seat)
        except BaseException:
            self.do_close(sock, address)
            raise

    def handle(self, sock: Any, address: Any) -> None:
        """Serve a connection to its end. Switches."""
        self.handler_class(sock, address, self).handle()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Start if need be, and wait until the server is stopped; then `stop` with *stop_timeout*. Switches.

        With *workers* the processes are forked here, and SIGTERM, SIGINT and SIGHUP are this server's until it returns.
        Raises SystemExit if none of them can start.
        """
        if self.workers is None:
            super().serve_forever(stop_timeout)
            return
        timeout = self.stop_timeout if stop_timeout is None else stop_timeout
        if self.started:
            self.stop_accepting()
        else:
            self.init_socket()
        self.environ["wsgi.multiprocess"] = True
        self.set_max_accept()

        def work(ended: Event, ready: Callable[[], Any]) -> None:
            self.start()
            ready()
            Greenlet.spawn(self._stop_event.wait).link(lambda _: ended.set())
            try:
                ended.wait()
            finally:
                # Who leaves by SystemExit in one request does not take the others' answers along.
                self.stop(timeout)

        def report(line: str) -> None:
            self.error_log.write(f"{line}\n")

        Supervisor(work, self.workers, timeout, report, self.close).run()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        """Make the TLS handshake, for which there is *header_timeout* as for a head, and call the handler. Switches.

        Raises what the handshake does. The server writes a line about it to its error log, if it is worth one.
        """
        handle = self.handle
        own = client_socket.gettimeout()
        if self._handshake_timeout is not None:
            client_socket.settimeout(self._handshake_timeout)
        # The TLS socket has the same one.
        descriptor = client_socket.fileno()
        self._service.begin_handshake(descriptor)
        try:
            tls = self.wrap_socket(client_socket, **self.ssl_args)
        except BaseException as error:
            is_served = self._service.end_handshake(descriptor)
            if isinstance(error, OSError):
                # The server that closes a connection for want of room knows why the handshake has failed.
                error._ends_handshake = is_served  # type: ignore[attr-defined]
            raise
        self._service.end_handshake(descriptor)
        with tls:
            tls.settimeout(own)
            return handle(tls, address)

    def _handle_by_tls(self, client_socket: Any, address: Any) -> Any:
        try:
            return self.wrap_socket_and_handle(client_socket, address)
        except OSError as error:
            is_served = getattr(error, "_ends_handshake", None)
            # As without TLS, clients that are silent or go away are not worth a word.
            if is_served is False or (is_served and isinstance(error, (TimeoutError, ConnectionError, _SSLEOFError))):
                return None
            if is_served is None or not isinstance(error, _SSLError):
                raise
            # Whoever speaks something else than TLS to this port gets no more room in the log than by a request.
            self.error_log.write(f"(from {address}) TLS handshake failed: {error}\n")
            return None

    def _on_change(self) -> None:
        # Runs in the hub.
        if self.started:
            self.start_accepting()
            if self._surplus:
                self._do_read()
        elif self._service.draining:
            self._changed.set()

    def close(self) -> None:
        """Stop accepting and close the listening socket.

        Idle connections are closed; requests in work are answered, and their connections closed then. Connections that
        have had no answer yet have *first_request_timeout* for a request.
        """
        was_started = self.started
        if was_started and self._watcher is not None and self._spawn is not None:
            # What fails below may close the server.
            self.stop_accepting()
            self._accept_rest()
        super().close()
        if self._surplus:
            surplus, self._surplus = self._surplus, None
            self.do_close(*surplus)
        if was_started:
            self._service.drain(self._stop_patience)

    def _accept_rest(self) -> None:
        # Whom the system has connected already would see the connection reset, and may have sent a request.
        if self.socket.fileno() < 0:
            # Somebody has closed it.
            return
        waiting = _poll()
        waiting.register(self.socket, 1)
        for _ in range(self.backlog):
            if self.closed or self._timer or self._surplus or self.full() or not any(waiting.poll(0)):
                break
            self._do_read()

    def stop(self, timeout: float | None = None) -> None:
        """Close, and wait for the connections to end, for *timeout* seconds (`stop_timeout`).

        What is in a pool then is killed; without a pool, handlers go on. Switches.
        """
        if timeout is None:
            timeout = self.stop_timeout
        self._stop_patience = timeout
        try:
            self.close()
        finally:
            self._stop_patience = None
        hub = get_hub()
        if getcurrent() is not hub:
            deadline = hub.loop.now() + timeout
            while self._service.others():
                self._changed.clear()
                if not self._changed.wait(max(0, deadline - hub.loop.now())):
                    break
            timeout = max(0, deadline - hub.loop.now())
        self._end_handlers(timeout)


def _load(application: str) -> Any:
    module, _, name = application.partition(":")
    loaded = importlib.import_module(module)
    for part in (name or "application").split("."):
        loaded = getattr(loaded, part)
    if not callable(loaded):
        raise TypeError(f"the application {application!r} is not callable: {loaded!r}")
    return loaded


def _most_connections() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(1, limit // 2, limit - 64)


def _as_log(log: Any, level: int) -> Any:
    if isinstance(log, str) and log == "default":
        # None where the descriptor was closed when the interpreter started.
        log = sys.stderr
    if log is None:
        return _NoopLog()
    if not hasattr(log, "write") and hasattr(log, "log"):
        return LoggingLogAdapter(log, level)
    return log


if __name__ == "__main__":
    # The module proper is another one, whose classes are those that applications derive from.
    runpy.run_module("gevent._pywsgi_command", run_name="__main__")
else:
    set_pywsgi_classes(WSGIHandler, WSGIServer, _NoopLog, FileWrapper, _InvalidClientRequest, _InvalidClientInput)
