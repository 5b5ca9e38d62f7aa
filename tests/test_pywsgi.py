"""pywsgi.WSGIServer, over raw sockets so that every byte is seen."""
import gzip
import hashlib
import io

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from http_client import Client, connect_by_tls, hello


def test_answers_with_date_length_and_body(serve):
    with Client(serve(hello)) as client:
        status, headers, body = client.get()
    assert (status, body) == (200, b"hello")
    assert headers["content-type"] == "text/plain"
    assert headers["content-length"] == "5"
    assert headers["date"].endswith("GMT")


def test_connection_is_kept_alive(serve):
    with Client(serve(hello)) as client:
        for _ in range(5):
            assert client.get()[0] == 200


@pytest.mark.parametrize(
    ("request_head", "closes"),
    [
        (b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", False),
    ],
)
def test_connection_closes_as_the_request_says(serve, request_head, closes):
    with Client(serve(hello)) as client:
        client.send(request_head)
        assert client.answer()[0] == 200
        if closes:
            assert client.at_end()
        else:
            assert client.get()[0] == 200


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
@pytest.mark.parametrize("is_tuple", [False, True])
def test_last_answer_of_a_connection_arrives_whole_and_then_its_end(serve, size, is_tuple):
    body = b"x" * size

    def application(environ, start_response):
        start_response("200 OK", [])
        return (body, b"end") if is_tuple else [body]

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        gevent.sleep(0.01)
        assert client.answer()[2] == (body + b"end" if is_tuple else body)
        assert client.at_end()


def test_pipelined_requests_are_answered_in_order(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    with Client(serve(application)) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % number for number in range(5)))
        assert [client.answer()[2] for _ in range(5)] == [b"/%d" % number for number in range(5)]


def test_request_in_single_bytes(serve):
    with Client(serve(hello)) as client:
        for byte in b"GET / HTTP/1.1\r\nHost: t\r\n\r\n":
            client.send(bytes([byte]))
            gevent.sleep(0)
        assert client.answer()[0] == 200


def test_environ_has_what_pep_3333_asks_for(serve):
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    server = serve(application)
    with Client(server) as client:
        client.get("/a%20b/%E6%97%A5?x=1&y=%20", ["X-Custom: v1", "X-Custom: v2", "Content-Type: text/x"])
    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["SCRIPT_NAME"] == ""
    # WSGI paths are bytes in latin-1 (PEP 3333, "Unicode Issues").
    assert seen["PATH_INFO"].encode("latin-1").decode("utf-8") == "/a b/日"
    assert seen["QUERY_STRING"] == "x=1&y=%20"
    assert seen["HTTP_HOST"] == "test"
    assert seen["HTTP_X_CUSTOM"] == "v1,v2"
    assert seen["CONTENT_TYPE"] == "text/x" and "HTTP_CONTENT_TYPE" not in seen
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert seen["SERVER_PORT"] == str(server.server_port)
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["wsgi.version"] == (1, 0)
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["wsgi.multithread"] is False and seen["wsgi.run_once"] is False


def test_headers_with_underscores_are_dropped(serve):
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    with Client(serve(application)) as client:
        client.get("/", ["X_Forged: 1"])
    assert "HTTP_X_FORGED" not in seen


@pytest.mark.ours_only("the real gevent passes it on")
@pytest.mark.parametrize("name", ["Proxy", "PROXY", "proxy"])
def test_client_cannot_name_a_proxy_for_the_servers_own_requests(serve, name):
    environments = []

    def application(environ, start_response):
        environments.append(dict(environ))
        return hello(environ, start_response)

    with Client(serve(application)) as client:
        for _ in range(4):   # later ones are copies
            assert client.get("/", [f"{name}: http://192.0.2.1", "Proxy-Authorization: x"])[0] == 200
    for environ in environments:
        assert "HTTP_PROXY" not in environ
        assert environ["HTTP_PROXY_AUTHORIZATION"] == "x"


def read_body(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body]


def test_body_by_content_length_and_by_chunks(serve):
    with Client(serve(read_body)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody")
        assert client.answer()[2] == b"body"
        client.send(
            b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
        )
        assert client.answer()[2] == b"abcdefg"
        assert client.get()[2] == b""


def test_unread_body_does_not_become_the_next_request(serve):
    with Client(serve(hello)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody")
        assert client.answer()[0] == 200
        assert client.get()[0] == 200


def test_input_reads_lines(serve):
    def application(environ, start_response):
        lines = environ["wsgi.input"].readlines()
        start_response("200 OK", [])
        return [repr(lines).encode()]

    with Client(serve(application)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\nab\ncd\nef")
        assert client.answer()[2] == repr([b"ab\n", b"cd\n", b"ef"]).encode()


def test_expected_continue_is_sent_when_the_body_is_read(serve):
    with Client(serve(read_body)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.file.readline().startswith(b"HTTP/1.1 100")
        while client.file.readline() != b"\r\n":
            pass
        client.send(b"body")
        assert client.answer()[2] == b"body"


def test_iterator_without_length_is_chunked(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        for number in range(3):
            gevent.sleep(0)
            yield b"%d" % number

    with Client(serve(application)) as client:
        _, headers, body = client.get()
        assert headers["transfer-encoding"] == "chunked" and body == b"012"
        assert client.get()[2] == b"012"


def test_http_1_0_is_never_answered_in_chunks(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        yield b"b"

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        _, headers, body = client.answer()
        assert "transfer-encoding" not in headers and body == b"ab"


def test_write_callable(serve):
    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Length", "6")])
        write(b"abc")
        return [b"def"]

    with Client(serve(application)) as client:
        assert client.get()[2] == b"abcdef"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_body_have_none(serve, status):
    def application(environ, start_response):
        start_response(status, [])
        return []

    with Client(serve(application)) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            code, headers, _ = client.answer(head_only=True)
            assert code == int(status[:3])
            assert "transfer-encoding" not in headers


def head(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"hello"]


@pytest.mark.parametrize(
    "application",
    [
        head,
        # RFC 9110, 9.3.2: the server must not send content in the answer to HEAD.
        pytest.param(hello, marks=pytest.mark.ours_only("the real server sends what the application returns")),
    ],
)
def test_head_has_no_body(serve, application):
    with Client(serve(application)) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert client.answer(head_only=True)[0] == 200
        assert client.at_end()


@pytest.mark.ours_only("the real server takes the whole from the application")
def test_answer_to_head_ends_with_its_fields_however_long_the_body_is(serve):
    closed = []

    class Body:
        def __iter__(self):
            yield b""
            yield b"x"
            pytest.fail("the rest is asked for")

        def close(self):
            closed.append(True)

    def application(environ, start_response):
        start_response("200 OK", [("X-A", "b")])
        return Body()

    with Client(serve(application)) as client:
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
            status, headers, _ = client.answer(head_only=True)
            assert (status, headers["x-a"]) == (200, "b")
    assert closed == [True, True]


def test_close_of_the_iterable_is_called(serve):
    closed = Event()

    class Body(list):
        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [])
        return Body([b"x"])

    with Client(serve(application)) as client:
        client.get()
    assert closed.wait(5)


def test_failing_application_gives_500_and_the_server_goes_on(serve, errors):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise KeyError("in application")
        return hello(environ, start_response)

    server = serve(application)
    with Client(server) as client:
        assert client.get("/fail")[0] == 500
    with Client(server) as client:
        assert client.get()[0] == 200
    assert "in application" in errors.getvalue() + server.error_log.getvalue()


def test_start_response_with_exc_info_replaces_the_status(serve):
    def application(environ, start_response):
        import sys

        start_response("200 OK", [])
        try:
            raise KeyError
        except KeyError:
            start_response("503 Busy", [], sys.exc_info())
        return [b"busy"]

    with Client(serve(application)) as client:
        assert client.get()[0] == 503


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", {400}),
        (b"GET / HTTP/9.9.9\r\n\r\n", {400}),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", {414}),
        # RFC 6585, section 5: 431. The real server says 400.
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(150)) + b"\r\n", {400, 431}),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n", {400}),
    ],
)
def test_bad_request_is_refused_and_the_connection_closed(serve, data, status):
    server = serve(read_body)
    with Client(server) as client:
        client.send(data)
        assert client.answer()[0] in status
        assert client.at_end()
    with Client(server) as client:
        assert client.get()[0] == 200


@pytest.mark.ours_only("the real server lets some ambiguous framings pass")
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length : 4\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"X-A: 1\r\n folded: 2\r\n",
    ],
)
def test_ambiguous_framing_is_refused(serve, headers):
    with Client(serve(read_body)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\n" + headers + b"\r\nbody")
        assert client.answer()[0] in (400, 501)
        assert client.at_end()


@pytest.mark.parametrize("headers", [[("X-A", "a\r\nX-Injected: 1")], [("X-A\n", "a")]])
def test_header_injection_is_refused(serve, errors, headers):
    def application(environ, start_response):
        start_response("200 OK", headers)
        return [b""]

    with Client(serve(application)) as client:
        status, answered, _ = client.get()
    assert status == 500 and "x-injected" not in answered


def test_slow_application_does_not_stop_the_others(serve):
    gate = Event()

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            gate.wait()
        return hello(environ, start_response)

    server = serve(application)
    with Client(server) as slow, Client(server) as quick:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        gevent.sleep(0.001)
        assert quick.get()[0] == 200
        gate.set()
        assert slow.answer()[0] == 200


def test_client_that_goes_away_does_no_harm(serve, errors):
    server = serve(hello)
    for data in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: t\r\n", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as sock:
            sock.sendall(data)
    with Client(server) as client:
        assert client.get()[0] == 200


def test_access_log_has_one_line_a_request(serve):
    log = io.StringIO()
    with Client(serve(hello, log=log)) as client:
        client.get("/path")
        client.get("/other")
    gevent.sleep(0.001)
    first, second = log.getvalue().splitlines()
    assert first.startswith("127.0.0.1 - - [") and '"GET /path HTTP/1.1" 200' in first
    assert '"GET /other HTTP/1.1" 200' in second


@pytest.mark.ours_only("the real server writes them as they are")
def test_control_characters_do_not_reach_the_access_log(serve):
    log = io.StringIO()
    lines = [
        b"GET /a\r127.0.0.1 - - HTTP/1.1",
        b"GET /\x1b[2J\x7f HTTP/1.1",
        "GET /\u009b31m\u0085\u00e9 HTTP/1.1".encode(),
        b"\x07",
    ]
    for data in lines:
        with Client(serve(hello, log=log)) as client:
            client.send(data + b"\r\nHost: t\r\nConnection: close\r\n\r\n")
            client.file.read()
    shown = [line.split('"')[1] for line in log.getvalue().split("\n")[:-1]]
    assert shown == [
        r"GET /a\x0d127.0.0.1 - - HTTP/1.1",
        r"GET /\x1b[2J\x7f HTTP/1.1",
        # The bytes of UTF-8, each as a character, as in gevent's.
        "GET /\xc2\\x9b31m\xc2\\x85\xc3\xa9 HTTP/1.1",
        r"\x07",
    ]


def test_subclass_of_the_handler_is_used(serve):
    from gevent.pywsgi import WSGIHandler

    class Handler(WSGIHandler):
        def get_environ(self):
            environ = super().get_environ()
            environ["mine"] = "yes"
            return environ

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["mine"].encode()]

    with Client(serve(application, handler_class=Handler)) as client:
        assert client.get()[2] == b"yes"


# -- handlers -----------------------------------------------------------------------------------------------


def test_every_overridden_step_is_called(serve):
    from gevent.pywsgi import WSGIHandler

    steps = [
        "handle_one_request", "read_requestline", "read_request", "get_environ", "handle_one_response",
        "run_application", "start_response", "process_result", "write", "_write_with_headers", "_write", "_sendall",
        "finalize_headers", "log_request", "format_request", "MessageClass", "_connection_upgrade_requested",
    ]
    called = []

    def overriding(name):
        def method(self, *args):
            called.append(name)
            return getattr(WSGIHandler, name)(self, *args)

        return method

    handler = type("Handler", (WSGIHandler,), {name: overriding(name) for name in steps})
    log = io.StringIO()
    with Client(serve(hello, handler_class=handler, log=log)) as client:
        for _ in range(2):
            status, headers, body = client.get("/x?y")
            assert (status, body, headers["content-length"]) == (200, b"hello", "5")
    assert [name for name in steps if called.count(name) < 2] == []
    assert '"GET /x?y HTTP/1.1" 200' in log.getvalue()


@pytest.mark.parametrize("step", ["read_requestline", "read_request", "process_result", "write", "finalize_headers"])
def test_one_overridden_step_leaves_the_others_as_they_are(serve, step):
    from gevent.pywsgi import WSGIHandler

    called = []

    def method(self, *args):
        called.append(step)
        return getattr(WSGIHandler, step)(self, *args)

    def application(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("X-Path", environ["PATH_INFO"])])
        return [body, b"!"]

    with Client(serve(application, handler_class=type("Handler", (WSGIHandler,), {step: method}))) as client:
        for path in ("/1", "/2"):
            client.send(b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nab" % path.encode())
            status, headers, body = client.answer()
            assert (status, headers["x-path"], body) == (200, path, b"ab!")
    assert len(called) >= 2


def test_handler_shows_the_request_to_its_log(serve):
    from gevent.pywsgi import WSGIHandler

    seen = []

    class Handler(WSGIHandler):
        def get_environ(self):
            environ = super().get_environ()
            environ["RAW_URI"] = self.path
            return environ

        def log_request(self):
            seen.append((
                self.command, self.path, self.request_version, self.requestline.strip(), self.status,
                dict(self.headers.items())["X-A"], dict(self.response_headers)[b"X-B"], self.environ["RAW_URI"],
                self.response_length > 5, self.time_finish >= self.time_start > 0,
            ))

    def application(environ, start_response):
        start_response("201 Made", [("X-B", "b")])
        return [b"hello"]

    with Client(serve(application, handler_class=Handler)) as client:
        assert client.get("/p%20q", ["X-A: a"])[0] == 201
    line = "GET /p%20q HTTP/1.1"
    assert seen == [("GET", "/p%20q", "HTTP/1.1", line, b"201 Made", "a", b"b", "/p%20q", True, True)]


def test_handler_can_change_path_and_response_headers(serve):
    from gevent.pywsgi import WSGIHandler

    class Handler(WSGIHandler):
        def read_request(self, raw_requestline):
            result = super().read_request(raw_requestline)
            self.path = "/changed?q"
            return result

        def start_response(self, status, headers, exc_info=None):
            result = super().start_response(status, headers, exc_info)
            self.response_headers.append((b"X-More", b"yes"))
            return result

    def application(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['PATH_INFO']} {environ['QUERY_STRING']}".encode()]

    with Client(serve(application, handler_class=Handler)) as client:
        for _ in range(2):
            _, headers, body = client.get("/asked")
            assert (headers["x-more"], body) == ("yes", b"/changed q")


def test_line_before_the_request_can_be_read_by_a_handler(serve):
    from gevent.pywsgi import WSGIHandler

    class ProxyProtocol(WSGIHandler):
        """HAProxy's protocol: a line that tells the client's address precedes the first request."""

        def read_requestline(self):
            line = super().read_requestline()
            if line.startswith("PROXY "):
                self.client_address = (line.split()[2], 1)
                line = super().read_requestline()
            return line

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["REMOTE_ADDR"].encode()]

    with Client(serve(application, handler_class=ProxyProtocol)) as client:
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert client.answer()[2] == b"192.0.2.7"


def test_client_error_is_answered_as_the_handler_says(serve):
    from gevent.pywsgi import WSGIHandler

    seen = []

    class Handler(WSGIHandler):
        def _handle_client_error(self, ex):
            seen.append(ex)
            return "418", b"HTTP/1.1 418 Teapot\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    with Client(serve(hello, handler_class=Handler)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n")
        assert client.answer()[0] == 418
        assert client.at_end()
    assert isinstance(seen[0], ValueError)


def test_handle_error_runs_within_the_exception(serve):
    import sys

    from gevent.pywsgi import WSGIHandler

    seen = []

    class Handler(WSGIHandler):
        def handle_error(self, t, v, tb):
            seen.append((t, sys.exc_info()[1] is v, tb is not None))
            self._send_error_response_if_possible(500)

    def application(environ, start_response):
        raise KeyError("x")

    with Client(serve(application, handler_class=Handler)) as client:
        assert client.get()[0] == 500
    assert seen == [(KeyError, True, True)]


def test_upgraded_connection_is_the_applications(serve):
    from gevent.pywsgi import WSGIHandler

    class Echo(WSGIHandler):
        def run_application(self):
            self.start_response("101 Switching Protocols", [("Upgrade", "echo"), ("Connection", "Upgrade")])
            self.write("")   # as gevent-websocket does
            self.close_connection = True
            assert self.environ["wsgi.input"] is self.rfile
            for line in iter(self.rfile.readline, b"\n"):
                self.socket.sendall(line.upper())

    with Client(serve(hello, handler_class=Echo)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst\n")
        status, headers, _ = client.answer(head_only=True)
        assert status == 101 and "transfer-encoding" not in headers and "content-length" not in headers
        assert client.file.readline() == b"FIRST\n"
        client.send(b"second\n\n")
        assert client.file.readline() == b"SECOND\n"
        assert client.at_end()


def test_garbage_is_collected_while_handlers_are_made(serve):
    import gc

    from gevent.pywsgi import WSGIHandler

    server = serve(hello)
    threshold = gc.get_threshold()
    near, far = socket.socketpair()
    # Kept, so that no dictionary is taken from CPython's list of free ones.
    kept = [{} for _ in range(500)]
    try:
        # One of the thresholds has the collection begin when a handler exists and is not filled yet.
        with near, far:
            for objects in range(1, 60):
                gc.set_threshold(objects)
                for _ in range(50):
                    kept.append(WSGIHandler(near, "", server))
    finally:
        gc.set_threshold(*threshold)


# -- environments and bodies --------------------------------------------------------------------------------


def test_environment_is_new_for_each_request(serve):
    def application(environ, start_response):
        seen = environ.get("mine", "none")
        environ["mine"] = "left behind"
        environ["HTTP_X_A"] = "changed"
        start_response("200 OK", [])
        return [seen.encode()]

    server = serve(application)
    with Client(server) as client:
        for _ in range(3):
            assert client.get("/", ["X-A: a"])[2] == b"none"


def test_environment_follows_the_server_and_the_fields_of_each_request(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_X_A", "added")
        return [repr([environ.get(key) for key in keys]).encode()]

    server = serve(application)
    with Client(server) as client:
        expected = [
            ("/1?q", ["X-A: a"], ["GET", "/1", "q", "a", None]),
            ("/2", ["X-A: a"], ["GET", "/2", "", "a", None]),
            ("/3", ["X-A: b"], ["GET", "/3", "", "b", None]),
            ("/4", [], ["GET", "/4", "", None, None]),
        ]
        for path, fields, values in expected:
            assert client.get(path, fields)[2] == repr(values).encode()
        server.environ["added"] = "later"
        assert client.get("/5", [])[2] == repr(["GET", "/5", "", None, "later"]).encode()
        client.send(b"DELETE /6 HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.answer()[2] == repr(["DELETE", "/6", "", None, "later"]).encode()


def test_cookies_are_joined_by_semicolons(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["HTTP_COOKIE"].encode()]

    with Client(serve(application)) as client:
        assert client.get("/", ["Cookie: a=1", "Cookie: b=2"])[2] == b"a=1; b=2"


def test_slow_body_does_not_stop_the_others(serve):
    server = serve(read_body)
    with Client(server) as slow, Client(server) as quick:
        slow.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbo")
        assert quick.get()[0] == 200
        slow.send(b"dy")
        assert slow.answer()[2] == b"body"


@pytest.mark.parametrize("size", [1, 3, 5, 100000])
def test_body_is_read_in_pieces(serve, size):
    def application(environ, start_response):
        pieces = list(iter(lambda: environ["wsgi.input"].read(size), b""))
        assert all(len(piece) == size for piece in pieces[:-1])
        start_response("200 OK", [])
        return pieces

    body = b"0123456789" * 30000
    with Client(serve(application)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 300000\r\n\r\n" + body)
        assert client.answer()[2] == body
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 70000):
            piece = body[start:start + 70000]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.answer()[2] == body


def test_large_response_to_a_slow_reader(serve):
    chunks = [bytes([number]) * 1000000 for number in range(8)]

    def application(environ, start_response):
        start_response("200 OK", [])
        return chunks if environ["PATH_INFO"] == "/list" else iter(chunks)

    server = serve(application)
    with Client(server) as client, Client(server) as other:
        for path in ("/list", "/iterator"):
            client.send(b"GET %s HTTP/1.1\r\nHost: t\r\n\r\n" % path.encode())
            gevent.sleep(0.001)
            assert other.get("/list")[2] == b"".join(chunks)
            assert client.answer()[2] == b"".join(chunks)


@pytest.mark.ours_only("the real server sends what the application returns, and the client takes it for a response")
def test_body_longer_than_declared_is_refused(serve, errors):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return [b"hello"]

    with Client(serve(application)) as client:
        assert client.get()[0] == 500
        assert client.at_end()
    assert "AssertionError" in errors.getvalue()


@pytest.mark.ours_only("the real server keeps the connection, and the client waits")
def test_body_shorter_than_declared_ends_the_connection(serve):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "9")])
        return [b"hello"]

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert client.answer()[2] == b"hello"


def test_error_after_the_headers_ends_the_connection(serve, errors):
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"begin"
        raise KeyError("midway")

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"begin" in client.file.read()
    assert "midway" in errors.getvalue()


def test_start_response_raises_what_exc_info_tells_once_headers_are_sent(serve, errors):
    import sys

    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"x")
        try:
            raise KeyError("original")
        except KeyError:
            start_response("500 Late", [], sys.exc_info())
        return [b"never"]

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"never" not in client.file.read()
    assert "original" in errors.getvalue()


def test_generator_is_closed_when_the_client_goes_away(serve):
    closed = Event()

    def application(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100000
        finally:
            closed.set()

    server = serve(application)
    with socket.create_connection(("127.0.0.1", server.server_port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        sock.recv(1)
    assert closed.wait(5)
    assert server.error_log.getvalue() == ""


@pytest.mark.ours_only("the real server closes the connection without a closure alert")
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000\r\n\r\n",
    ],
    ids=["HTTP/1.0", "close", "refused", "unread body"],
)
def test_tls_connection_ends_by_a_closure_alert(serve, certificate, data):
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"hello"

    with connect_by_tls(serve(application, **certificate)) as sock:
        # Else the end without an alert is an end, too.
        sock.suppress_ragged_eofs = False
        sock.sendall(data)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 ")


def test_unix_socket_is_served(serve, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "wsgi"))
    listener.listen()
    server = WSGIServer(listener, hello, log=None, error_log=io.StringIO())
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as file:
            sock.connect(str(tmp_path / "wsgi"))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert file.read().endswith(b"\r\n\r\nhello")
    finally:
        server.stop(timeout=1)
        listener.close()


def test_killed_pool_ends_connections(serve):
    server = serve(hello, spawn=5)
    with Client(server) as client:
        assert client.get()[0] == 200
        server.stop(timeout=0)
        assert client.at_end()


@pytest.mark.ours_only("the real server has no wsgi.file_wrapper")
@pytest.mark.parametrize("length", [None, 700_000, 10])
@pytest.mark.parametrize("kind", ["file", "unbuffered", "bytes", "gzip"])
def test_file_wrapper_sends_a_file_from_its_position(serve, tmp_path, kind, length):
    content = bytes(range(256)) * 4000
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if kind == "gzip" else content)
    closed, places = [], []

    def application(environ, start_response):
        file = {
            "file": lambda: path.open("rb"),
            "unbuffered": lambda: path.open("rb", buffering=0),
            "bytes": lambda: io.BytesIO(content),
            "gzip": lambda: gzip.open(path),
        }[kind]()
        assert file.read(3) == content[:3]
        wrapper = environ["wsgi.file_wrapper"](file, 4096)
        close = wrapper.close
        wrapper.close = lambda: (places.append(file.tell()), close(), closed.append(file.closed))
        start_response("200 OK", [("Content-Length", str(length))] if length is not None else [])
        if kind in ("bytes", "gzip") and length is not None:
            return [content[3:3 + length]]   # who iterates must not send more than was announced
        return wrapper

    with Client(serve(application)) as client:
        for _ in range(2):
            _, headers, body = client.get()
            assert body == (content[3:] if length is None else content[3:3 + length])
        if kind in ("file", "unbuffered"):
            assert int(headers["content-length"]) == (len(content) - 3 if length is None else length)
            client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert client.answer(head_only=True)[1]["content-length"] == headers["content-length"]
        assert client.get()[0] == 200
    assert all(closed)
    # The kernel sends what nobody has read.
    assert set(places) == ({3} if kind in ("file", "unbuffered") else {len(content)} if length is None else set())


@pytest.mark.ours_only("the real server has no wsgi.file_wrapper")
def test_file_that_shrinks_while_it_is_sent_ends_the_connection(serve, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "200")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        client.answer(head_only=True)
        assert client.file.read() == b"x" * 100


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upload_of_20_megabytes(serve, framing):
    def application(environ, start_response):
        digest = hashlib.sha256()
        while data := environ["wsgi.input"].read(65536):
            digest.update(data)
        start_response("200 OK", [])
        return [digest.hexdigest().encode()]

    piece = bytes(range(256)) * 4096
    expected = hashlib.sha256(piece * 20).hexdigest().encode()
    with Client(serve(application)) as client:
        if framing == "length":
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % (20 * len(piece)))
            for _ in range(20):
                client.send(piece)
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        assert client.answer()[2] == expected
        assert client.get()[0] == 200


@pytest.mark.ours_only("the real server closes the connection without an answer")
def test_application_that_never_starts_its_response_is_answered_by_500(serve, errors):
    log = io.StringIO()
    with Client(serve(lambda environ, start_response: [], error_log=log)) as client:
        assert client.get()[0] == 500
        assert client.at_end()
    assert "did not call start_response()" in log.getvalue()
    assert errors.getvalue() == ""


@pytest.mark.parametrize("spawn", [
    "default", 3, "pool", "spawn", "spawn_raw",
    pytest.param("raw", marks=pytest.mark.ours_only("gevent calls the word when somebody connects")),
])
def test_each_way_to_spawn_serves(serve, spawn):
    made = {"pool": Pool(3), "spawn": gevent.spawn, "spawn_raw": gevent.spawn_raw}.get(spawn, spawn)
    server = serve(hello, spawn=made)
    with Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\nGET / HTTP/1.0\r\n\r\n")
        assert client.answer()[2] == b"hello"
        assert client.answer()[2] == b"hello"
        assert client.at_end()
