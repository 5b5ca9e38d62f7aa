"""The command ``python -m gevent.pywsgi``."""
import argparse
import math
import os
import sys
from typing import Any

from gevent import monkey, socket, ssl
from gevent.pywsgi import WSGIServer, _load

__all__ = ["main"]

_PROGRAM = "python -m gevent.pywsgi"


#: Options with numbers, and what they mean, with their defaults.
_SIZES = {
    "max-request-line": "bytes of a request line; 414 beyond (8192)",
    "max-header-bytes": "bytes of a request's header fields; 431 beyond (65536)",
    "max-header-count": "how many header fields a request has; 431 beyond (100)",
    "max-body-bytes": "bytes of a request's body; 413 beyond (no limit)",
    "max-connections": "in each process; beyond it, connections that wait are closed for new ones (by ulimit -n)",
}
#: Options with seconds.
_TIMEOUTS = {
    "header-timeout": "for a request's head, and for a TLS handshake (30)",
    "body-timeout": "between two pieces of a request's body (60)",
    "write-timeout": "while a client takes nothing of a response (60)",
    "keep-alive-timeout": "between two requests of a connection (75)",
    "first-request-timeout": "for connections without a request when the process ends (5)",
}


class _Server(WSGIServer):
    """Reads certificate and key when it starts, in each process: SIGHUP brings renewed ones."""

    certificate: tuple[str, str | None] | None = None

    def start(self) -> None:
        if self.certificate is not None:
            try:
                self.wrap_socket = _tls_context(*self.certificate).wrap_socket
            except OSError as error:
                raise SystemExit(f"{_PROGRAM}: {_certificate_trouble(*self.certificate, error)}") from None
        if isinstance(self.application, str):
            self.application = _application(self.application)
        super().start()


def _application(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return _load(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise   # a module of the application's own misses another one
        raise SystemExit(f"{_PROGRAM}: there is no module {error.name!r} in {os.getcwd()} or on the module search path "
                         f"(the application was given as {path!r})") from None
    except AttributeError:
        # The module has been imported, unless its own code raised this.
        if (loaded := sys.modules.get(module)) is None:
            raise
        found = sorted(key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_"))
        raise SystemExit(f"{_PROGRAM}: the module {module!r} ({getattr(loaded, '__file__', None)}) has no {name!r}; "
                         f"callables that it has: {', '.join(found) or 'none'}") from None
    except TypeError as error:
        if not str(error).startswith("the application "):
            raise
        raise SystemExit(f"{_PROGRAM}: {error}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted: nobody could type its password when a process is replaced. "
                     "'openssl pkey' decrypts it")


def _tls_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile, _no_password)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _certificate_trouble(certfile: str, keyfile: str | None, error: OSError) -> str:
    for path in filter(None, (certfile, keyfile)):
        try:
            with open(path, "rb"):
                pass
        except OSError as reason:
            return f"can't read {path!r}: {reason.strerror}"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"the key in {keyfile or certfile!r} is not that of the certificate in {certfile!r}"
    if keyfile is None:
        return f"{certfile!r} is not a PEM file with a certificate and its key: {error}; or give --keyfile"
    return f"{certfile!r} is not a PEM file with a certificate, or {keyfile!r} not one with its key: {error}"


def _listener(bind: str, options: dict[str, Any]) -> Any:
    if not bind.startswith("unix:"):
        return bind
    path = bind.removeprefix("unix:")
    if not path:
        raise ValueError(f"{bind!r} has no path")
    listener = socket.socket(socket.AF_UNIX)
    try:
        # What a server that is gone left behind.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass
    listener.bind(path)
    # WSGIServer takes no backlog for a socket that listens already.
    listener.listen(options.pop("backlog", WSGIServer.backlog))
    return listener


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def _duration(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more and finite, not {text}")
    return seconds


_positive.__name__, _duration.__name__ = "integer", "number"   # as argparse calls what it can't convert


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Serve a WSGI application.",
                                     epilog="SIGTERM and SIGINT end it when the requests in work are answered; SIGHUP "
                                            "loads the application anew. The parameters are those of WSGIServer.")
    parser.add_argument("app", help="the application: module:callable, imported in each process")
    parser.add_argument("-b", "--bind", default=":8080", metavar="ADDRESS",
                        help="host:port, :port or unix:path (default %(default)s)")
    parser.add_argument("-w", "--workers", type=int, default=1, help="how many processes serve (default %(default)s)")
    parser.add_argument("--stop-timeout", type=_duration, default=30, metavar="SECONDS",
                        help="how long requests in work may take at the end (default %(default)s)")
    parser.add_argument("--log", default="gevent", metavar="FORMAT",
                        help="off, json, gevent or a format string (default %(default)s)")
    parser.add_argument("--certfile", help="serve TLS with this certificate and those that vouch for it, a PEM file")
    parser.add_argument("--keyfile", help="its key, if it is in another file")
    for name, meaning in _SIZES.items():
        parser.add_argument(f"--{name}", type=int, metavar="NUMBER", help=meaning)
    parser.add_argument("--backlog", type=_positive, metavar="NUMBER",
                        help=f"connections that the system keeps until they are accepted ({WSGIServer.backlog})")
    for name, meaning in _TIMEOUTS.items():
        parser.add_argument(f"--{name}", type=float, metavar="SECONDS", help=f"{meaning}; 0: no limit")
    parser.add_argument("--server-header", metavar="VALUE", help="the Server field of responses that have none")
    parser.add_argument("--trusted-proxies", metavar="ADDRESSES",
                        help="whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses, networks, 'unix' or "
                             "'*', separated by commas")
    parser.add_argument("--proxy-protocol", action="store_true",
                        help="each connection begins with a header of the PROXY protocol, version 1 or 2")
    parser.add_argument("--reuse-port", action="store_true", help="share the port with servers started elsewhere")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Serve until a signal says otherwise. *argv* are the arguments, those of the process by default."""
    monkey.patch_all()
    parser = _parser()
    given = vars(parser.parse_args(argv))
    options = {name: value for name, value in given.items() if value is not None}
    application, bind = options.pop("app"), options.pop("bind")
    stop_timeout, log = options.pop("stop_timeout"), options.pop("log")
    for name in (option.replace("-", "_") for option in _TIMEOUTS):
        if options.get(name) == 0:
            options[name] = None
    if log == "off":
        options["log"] = None
    elif log != "gevent":
        options["log_format"] = log
    module, _, name = application.partition(":")
    if not (module and name):
        parser.error(f"the application is given as module:callable ('shop.web:application' for the object application "
                     f"of shop/web.py), not {application!r}")
    # As `python -m` does for its own module.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    certfile, keyfile = options.pop("certfile", None), options.pop("keyfile", None)
    if certfile is not None:
        try:
            options["ssl_context"] = _tls_context(certfile, keyfile)
        except OSError as error:   # ssl.SSLError is one
            parser.error(_certificate_trouble(certfile, keyfile, error))
        except ValueError as error:
            parser.error(f"{keyfile or certfile!r}: {error}")
    elif keyfile is not None:
        parser.error("--keyfile needs --certfile")
    try:
        server = _Server(_listener(bind, options), application, **options)
        server.certificate = None if certfile is None else (certfile, keyfile)
        server.init_socket()
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    except (OSError, OverflowError) as error:
        hint = "; ports below 1024 need CAP_NET_BIND_SERVICE" if isinstance(error, PermissionError) else ""
        raise SystemExit(f"{_PROGRAM}: can't listen at {bind!r}: {error}{hint}") from None
    server.serve_forever(stop_timeout)


if __name__ == "__main__":
    main()
