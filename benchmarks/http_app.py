"""A WSGI application for the HTTP benchmarks, to be served by any server.

usage: python http_app.py PORT      serves it by gevent.pywsgi of this interpreter, without an access log

Paths: `/` 21 bytes, `/big` 64 KiB, `/sleep` the 21 bytes after 10 ms in which other requests are served.
"""

import sys

SMALL = b"<h1>Hello, world</h1>"
BIG = b"x" * 65536


def application(environ, start_response):
    """Answer a request, as PEP 3333 says."""
    path = environ["PATH_INFO"]
    if path == "/sleep":
        # Not at the top: the other servers have no gevent.
        import gevent

        gevent.sleep(0.01)
    body = BIG if path == "/big" else SMALL
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    from gevent.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None).serve_forever()
