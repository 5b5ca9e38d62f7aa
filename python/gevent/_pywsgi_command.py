"""The command ``python -m gevent.pywsgi``."""
import argparse
import os
import sys
from typing import Any

from gevent import monkey, socket
from gevent.pywsgi import WSGIServer

__all__ = ["main"]


def _listener(bind: str) -> Any:
    if not bind.startswith("unix:"):
        return bind
    path = bind.removeprefix("unix:")
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
    listener.listen(WSGIServer.backlog)
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gevent.pywsgi", description="Serve a WSGI application.",
                                     epilog="SIGTERM and SIGINT end it when the requests in work are answered; SIGHUP "
                                            "loads the application anew. The parameters are those of WSGIServer.")
    parser.add_argument("app", help="module:callable")
    parser.add_argument("-b", "--bind", default=":8080", metavar="ADDRESS",
                        help="host:port, :port or unix:path (default %(default)s)")
    parser.add_argument("-w", "--workers", type=int, default=1, help="how many processes serve (default %(default)s)")
    parser.add_argument("--stop-timeout", type=float, default=30, metavar="SECONDS",
                        help="how long requests in work may take at the end (default %(default)s)")
    parser.add_argument("--log", default="gevent", metavar="FORMAT",
                        help="off, json, gevent or a format string (default %(default)s)")
    parser.add_argument("--certfile", help="serve TLS with this certificate")
    parser.add_argument("--keyfile", help="its key, if it is in another file")
    for name in ("max-request-line", "max-header-bytes", "max-header-count", "max-body-bytes", "max-connections",
                 "backlog"):
        parser.add_argument(f"--{name}", type=int, metavar="NUMBER")
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
    if ":" not in application:
        parser.error(f"the application is given as module:callable, not {application!r}")
    # As `python -m` does for its own module.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        server = WSGIServer(_listener(bind), application, **options)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    server.serve_forever(stop_timeout)


if __name__ == "__main__":
    main()
