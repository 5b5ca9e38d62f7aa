"""The command ``python -m gevent.pywsgi``."""
import argparse
import math
import os
import sys
from typing import Any

from gevent import monkey, socket, ssl
from gevent.pywsgi import WSGIServer

__all__ = ["main"]


class _Server(WSGIServer):
    """Reads certificate and key when it starts, in each process: SIGHUP brings renewed ones."""

    certificate: tuple[str, str | None] | None = None

    def start(self) -> None:
        if self.certificate is not None:
            self.wrap_socket = _tls_context(*self.certificate).wrap_socket
        super().start()


def _tls_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    context.set_alpn_protocols(["http/1.1"])
    return context


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
    parser = argparse.ArgumentParser(prog="python -m gevent.pywsgi", description="Serve a WSGI application.",
                                     epilog="SIGTERM and SIGINT end it when the requests in work are answered; SIGHUP "
                                            "loads the application anew. The parameters are those of WSGIServer.")
    parser.add_argument("app", help="module:callable")
    parser.add_argument("-b", "--bind", default=":8080", metavar="ADDRESS",
                        help="host:port, :port or unix:path (default %(default)s)")
    parser.add_argument("-w", "--workers", type=int, default=1, help="how many processes serve (default %(default)s)")
    parser.add_argument("--stop-timeout", type=_duration, default=30, metavar="SECONDS",
                        help="how long requests in work may take at the end (default %(default)s)")
    parser.add_argument("--log", default="gevent", metavar="FORMAT",
                        help="off, json, gevent or a format string (default %(default)s)")
    parser.add_argument("--certfile", help="serve TLS with this certificate")
    parser.add_argument("--keyfile", help="its key, if it is in another file")
    for name in ("max-request-line", "max-header-bytes", "max-header-count", "max-body-bytes", "max-connections"):
        parser.add_argument(f"--{name}", type=int, metavar="NUMBER")
    parser.add_argument("--backlog", type=_positive, metavar="NUMBER")
    for name in ("header-timeout", "body-timeout", "write-timeout", "keep-alive-timeout"):
        parser.add_argument(f"--{name}", type=float, metavar="SECONDS", help="0: no limit")
    parser.add_argument("--server-header", metavar="VALUE")
    parser.add_argument("--trusted-proxies", metavar="ADDRESSES", help="separated by commas")
    for name in ("proxy-protocol", "reuse-port"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Serve until a signal says otherwise. *argv* are the arguments, those of the process by default."""
    monkey.patch_all()
    parser = _parser()
    given = vars(parser.parse_args(argv))
    options = {name: value for name, value in given.items() if value is not None}
    application, bind = options.pop("app"), options.pop("bind")
    stop_timeout, log = options.pop("stop_timeout"), options.pop("log")
    for name in ("header_timeout", "body_timeout", "write_timeout", "keep_alive_timeout"):
        if options.get(name) == 0:
            options[name] = None
    if log == "off":
        options["log"] = None
    elif log != "gevent":
        options["log_format"] = log
    module, _, name = application.partition(":")
    if not (module and name):
        parser.error(f"the application is given as module:callable, not {application!r}")
    # As `python -m` does for its own module.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    certfile, keyfile = options.pop("certfile", None), options.pop("keyfile", None)
    if certfile is not None:
        try:
            options["ssl_context"] = _tls_context(certfile, keyfile)
        except OSError as error:   # ssl.SSLError is one
            parser.error(f"certificate {certfile!r}, key {keyfile or certfile!r}: {error}")
    elif keyfile is not None:
        parser.error("--keyfile needs --certfile")
    try:
        server = _Server(_listener(bind, options), application, **options)
        server.certificate = None if certfile is None else (certfile, keyfile)
        server.init_socket()
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    except (OSError, OverflowError) as error:
        raise SystemExit(f"{parser.prog}: can't listen at {bind!r}: {error}") from None
    server.serve_forever(stop_timeout)


if __name__ == "__main__":
    main()
