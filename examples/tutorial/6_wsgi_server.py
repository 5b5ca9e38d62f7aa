"""A web server: each connection is served by a greenlet of its own. Ctrl+C stops it.

Usage: 6_wsgi_server.py [PORT]    (8000 unless given; 0 takes any free port)
"""

from gevent import monkey

monkey.patch_all()

import html
import sys

from gevent.pywsgi import WSGIServer


def application(environ, start_response):
    """Answer one request (a WSGI application, see PEP 3333)."""
    # WSGI hands the path over as bytes disguised as Latin-1 text; the browser sent UTF-8.
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])

    if path == "/":
        page = "<h1>Welcome to a web server made with gevent!</h1>"
    elif path == "/about":
        page = "<h1>This is gevent's demo server</h1>"
    else:
        # What a stranger sent must not be taken for markup.
        page = f"<h1>You asked for: {html.escape(path)}</h1>"
    return [page.encode("utf-8")]


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = WSGIServer(("127.0.0.1", port), application)
    server.start()
    print(f"Serving on http://127.0.0.1:{server.server_port} (Ctrl+C stops)", flush=True)

    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Server stopped")
