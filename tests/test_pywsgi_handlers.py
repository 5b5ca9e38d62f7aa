"""Handlers, and applications that take a connection over, as programs on gevent have them.

Odoo and ZeroNet derive their handlers like this, and so do ws4py, sockjs-gevent and pywb; simple-websocket, which
Flask-Sock and Flask-SocketIO use, and wsgiprox look for the socket in `wsgi.input`.
"""
import io
import re

import gevent
import pytest
from gevent import pool, socket, ssl
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.server import StreamServer
from http_client import Client, TLSClient, hello
from implementation import run_script

UPGRADE = b"GET /socket HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
TUNNEL = b"CONNECT there:443 HTTP/1.1\r\nHost: there:443\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


def socket_of(environ):
    """Return the connection's socket by what is in the environment, as simple-websocket and wsgiprox look for it."""
    body = environ["wsgi.input"]
    return (body if hasattr(body, "raw") else body.rfile).raw._sock


def echo(connection):
    """Answer in a protocol of our own, until an empty line."""
    file = connection.makefile("rb")
    for line in iter(file.readline, b"\n"):
        connection.sendall(line.upper())
    file.close()


# -- the log ----------------------------------------------------------------------------------------------------------


def test_log_names_the_client_that_the_handler_says_it_is(serve):
    class Handler(WSGIHandler):
        def format_request(self):
            own, self.client_address = self.client_address, self.environ["REMOTE_ADDR"]
            try:
                return super().format_request()
            finally:
                self.client_address = own

    def application(environ, start_response):
        # As behind a middleware that believes a proxy.
        environ["REMOTE_ADDR"] = environ["HTTP_X_REAL_IP"]
        return hello(environ, start_response)

    log = io.StringIO()
    with Client(serve(application, handler_class=Handler, log=log)) as client:
        for number in (1, 2):
            assert client.get("/", [f"X-Real-IP: 192.0.2.{number}"])[0] == 200
    while log.getvalue().count("\n") < 2:
        gevent.sleep(0.001)
    assert re.findall(r"^\S+", log.getvalue(), re.MULTILINE) == ["192.0.2.1", "192.0.2.2"]


def test_address_that_a_handler_sets_counts_for_the_next_request(serve):
    class Handler(WSGIHandler):
        def handle_one_response(self):
            super().handle_one_response()
            self.client_address = ("192.0.2.9", 9)

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["REMOTE_ADDR"].encode()]

    with Client(serve(application, handler_class=Handler)) as client:
        assert [client.get()[2] for _ in range(2)] == [b"127.0.0.1", b"192.0.2.9"]


# -- what a request says ----------------------------------------------------------------------------------------------


def test_handler_may_have_another_class_of_fields(serve):
    class Handler(WSGIHandler):
        def MessageClass(self, *arguments):
            fields = super().MessageClass(*arguments)
            fields["X-Added"] = f"to {len(fields)}"
            return fields

    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["HTTP_X_ADDED"].encode()]

    with Client(serve(application, handler_class=Handler)) as client:
        assert [client.get("/", fields)[2] for fields in ([], ["A: b"], ["A: b"])] == [b"to 1", b"to 2", b"to 2"]


def test_handler_says_what_asks_for_an_upgrade(serve):
    """By the path, for requests whose fields are the same."""
    class Handler(WSGIHandler):
        def _connection_upgrade_requested(self):
            return self.path == "/socket"

    def application(environ, start_response):
        start_response("200 OK", [])
        return [str(environ["wsgi.input_terminated"]).encode()]

    with Client(serve(application, handler_class=Handler)) as client:
        for path, answer in [("/", b"True"), ("/other", b"True"), ("/socket", b"False"), ("/", b"True")]:
            assert client.get(path)[2] == answer


# -- answers that a handler makes -------------------------------------------------------------------------------------


def test_handler_answers_in_place_of_the_application(serve):
    class Handler(WSGIHandler):
        def handle_one_response(self):
            self.status, self.headers_sent, self.result = None, False, None
            self.response_use_chunked, self.response_length = False, 0
            if self.environ["PATH_INFO"] == "/result":
                self.start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
                self.result = [b"mine"]
                self.process_result()
            elif self.environ["PATH_INFO"] == "/writes":
                self.start_response("200 OK", [("Content-Length", "2")])
                self.write(b"a")
                self.write(b"b")
            else:
                super().handle_one_response()

    with Client(serve(hello, handler_class=Handler)) as client:
        for _ in range(2):
            assert [client.get(path)[2] for path in ("/result", "/writes", "/other")] == [b"mine", b"ab", b"hello"]


def test_handler_answers_for_an_application_that_fails(serve, errors):
    class Handler(WSGIHandler):
        def run_application(self):
            try:
                super().run_application()
            except ZeroDivisionError as error:
                self.start_response("503 Busy", [("Content-Length", str(len(str(error))))])
                self.write(str(error).encode())

    def application(environ, start_response):
        return 1 // (environ["PATH_INFO"] == "/fine") and hello(environ, start_response)

    with Client(serve(application, handler_class=Handler)) as client:
        status, _, body = client.get("/fails")
        # CPython's words differ from version to version.
        assert status == 503 and body.endswith(b"by zero")
        assert client.get("/fine")[2] == b"hello"
    assert errors.getvalue() == ""


def test_handler_notes_the_connections_that_there_are(serve):
    class Handler(WSGIHandler):
        def __init__(self, *arguments, **options):
            self.server = arguments[2]
            super().__init__(*arguments, **options)

        def handle(self):
            connections[self.client_address] = self.socket
            super().handle()
            del connections[self.client_address]

    connections = {}
    server = serve(hello, handler_class=Handler)
    with Client(server) as first, Client(server) as second:
        for client in (first, second, first):
            assert client.get()[2] == b"hello"
        assert set(connections) == {client.sock.getsockname() for client in (first, second)}
        # What is noted can be closed from elsewhere.
        for connection in list(connections.values()):
            connection.shutdown(socket.SHUT_RDWR)
        assert first.at_end() and second.at_end()
    while connections:
        gevent.sleep(0.001)


def test_handler_sees_the_tls_connection(serve, certificate):
    class Handler(WSGIHandler):
        def get_environ(self):
            environ = super().get_environ()
            environ["SSL"] = isinstance(self.socket, ssl.SSLSocket)
            environ["SSL_PROTOCOL"] = self.socket.version()
            return environ

    def application(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['SSL']} {environ['SSL_PROTOCOL']} {environ['wsgi.url_scheme']}".encode()]

    with TLSClient(serve(application, handler_class=Handler, **certificate)) as client:
        for _ in range(2):
            assert client.get()[2] == f"True {client.sock.version()} https".encode()


# -- connections that are taken over ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("request_head", [UPGRADE, TUNNEL])
def test_application_that_answers_on_the_socket_itself_is_left_alone(serve, certificate, errors, request_head, is_tls):
    def application(environ, start_response):
        connection = socket_of(environ)
        connection.sendall(b"HTTP/1.1 200 Yours\r\n\r\n")
        echo(connection)
        connection.shutdown(socket.SHUT_WR)
        return []

    server = serve(application, **certificate if is_tls else {})
    with (TLSClient if is_tls else Client)(server) as client:
        client.send(request_head)
        assert client.answer(head_only=True)[0] == 200
        client.send(b"one\n")
        assert client.file.readline() == b"ONE\n"
        client.send(b"two\n\n")
        assert client.file.read() == b"TWO\n"
    assert errors.getvalue() == server.error_log.getvalue() == ""


@pytest.mark.ours_only("gevent takes what comes then for the next request")
def test_application_may_take_a_duplicate_of_the_socket(serve, errors):
    """As simple-websocket does, which then has the connection although the server closes its own socket."""
    def application(environ, start_response):
        taken.append(socket_of(environ).dup())
        return []

    taken = []
    with Client(serve(application)) as client:
        client.send(UPGRADE)
        while not taken:
            gevent.sleep(0.001)
        taken[0].sendall(b"HTTP/1.1 101 Switching\r\n\r\n")
        assert client.answer(head_only=True)[0] == 101
        client.send(b"\n")
        echo(taken[0])
        taken[0].close()
        assert client.at_end()
    assert errors.getvalue() == ""


@pytest.mark.ours_only("gevent waits for the next request")
def test_application_may_close_the_socket_that_it_took(serve, errors):
    def application(environ, start_response):
        connection = socket_of(environ)
        connection.sendall(b"HTTP/1.1 101 Switching\r\n\r\nbye")
        connection.close()
        # What frameworks say all the same.
        start_response("200 OK", [("Content-Length", "2")])
        return [b"no"]

    server = serve(application)
    with Client(server) as client:
        client.send(UPGRADE)
        assert client.answer(head_only=True)[0] == 101
        assert client.file.read() == b"bye"
    with Client(server) as client:
        client.send(TUNNEL)
        assert client.answer(head_only=True)[0] == 101
        assert client.file.read() == b"bye"
    assert errors.getvalue() == server.error_log.getvalue() == ""


def test_response_whose_close_speaks_another_protocol(serve, errors):
    """Odoo's: the handler hands out its socket, and the response serves it once its head has been sent."""
    class Handler(WSGIHandler):
        def get_environ(self):
            environ = super().get_environ()
            environ["socket"] = self.socket
            if self.headers.get("Upgrade", "").lower() == "echo":
                environ["wsgi.input"] = self.rfile
                environ["wsgi.input_terminated"] = False
            return environ

        def finalize_headers(self):
            super().finalize_headers()
            if self.code == 101:
                self.response_use_chunked = False

    class Response:
        def __init__(self, connection):
            self.connection = connection

        def __iter__(self):
            return iter(())

        def close(self):
            echo(self.connection)
            self.connection.shutdown(socket.SHUT_RDWR)

    def application(environ, start_response):
        if "HTTP_UPGRADE" not in environ:
            return hello(environ, start_response)
        start_response("101 Switching Protocols", [("Upgrade", "echo"), ("Connection", "Upgrade")])
        return Response(environ["socket"])

    with Client(serve(application, handler_class=Handler)) as client:
        assert client.get()[2] == b"hello"
        client.send(UPGRADE)
        status, headers, _ = client.answer(head_only=True)
        assert status == 101 and "transfer-encoding" not in headers
        client.send(b"one\n\n")
        assert client.file.read() == b"ONE\n"
    assert errors.getvalue() == ""


def test_handler_that_gives_its_socket_to_another_greenlet(serve, errors):
    """ws4py's: the response is sent in `run_application`, then a greenlet of the server's own pool has the socket."""
    class Handler(WSGIHandler):
        def run_application(self):
            if "HTTP_UPGRADE" not in self.environ:
                return super().run_application()
            connection = self.socket
            self.result = self.application(self.environ, self.start_response) or []
            self.process_result()
            self.socket = None
            self.rfile.close()
            self.server.pool.spawn(echo, connection).join()
            return None

    def application(environ, start_response):
        if "HTTP_UPGRADE" not in environ:
            return hello(environ, start_response)
        start_response("101 Switching Protocols", [("Upgrade", "echo"), ("Connection", "Upgrade")])
        return []

    server = serve(application, handler_class=Handler)
    server.pool = pool.Pool()
    with Client(server) as client:
        assert client.get()[2] == b"hello"
        client.send(UPGRADE)
        assert client.answer(head_only=True)[0] == 101
        client.send(b"one\n")
        assert client.file.readline() == b"ONE\n"
        client.send(b"\n")
        assert client.at_end()
    server.stop(1)
    assert errors.getvalue() == ""


@pytest.mark.parametrize("has_file", [False, True])
def test_handler_without_a_wsgi_server(has_file):
    """Programs run handlers in servers of their own, with what a handler asks of its server."""
    class Environment:
        log, error_log = io.StringIO(), io.StringIO()
        environ_class, secure_environ_class = dict, dict
        loop = gevent.get_hub().loop

        @staticmethod
        def application(environ, start_response):
            start_response("200 OK", [])
            return [environ["ITS_OWN"].encode(), environ["PATH_INFO"].encode(), environ["wsgi.input"].read()]

        @staticmethod
        def get_environ():
            return {"ITS_OWN": "yes", "wsgi.url_scheme": "http"}

    def handle(connection, address):
        file = [connection.makefile("rb")] if has_file else []
        WSGIHandler(connection, address, Environment, *file).handle()

    with StreamServer(("127.0.0.1", 0), handle) as server:
        server.start()
        with Client(server) as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc" + LAST)
            assert client.answer()[2] == b"yes/aabc"
            assert client.answer()[2] == b"yes/last"
            assert client.at_end()
        with Client(server) as client:
            client.send(b"BAD\r\n\r\n")
            assert client.answer()[0] == 400
            assert client.at_end()
    requests = [line.split('"')[1] for line in Environment.log.getvalue().splitlines()]
    assert requests == ["POST /a HTTP/1.1", "GET /last HTTP/1.1", "BAD"]
    assert "'BAD" in Environment.error_log.getvalue()


# -- servers ----------------------------------------------------------------------------------------------------------


def test_port_is_known_before_the_server_runs():
    """As pywb does: `init_socket`, then `serve_forever` in a greenlet."""
    server = WSGIServer(("127.0.0.1", 0), hello, log=None)
    server.init_socket()
    assert server.address[1] != 0
    running = gevent.spawn(server.serve_forever)
    with Client(server) as client:
        assert client.get()[2] == b"hello"
    server.stop(1)
    running.get(timeout=5)


def test_listener_of_ones_own(errors):
    """As Calibre-Web does: the socket is made by `get_listener`, and `close` ends `serve_forever`."""
    listener = WSGIServer.get_listener(("127.0.0.1", 0), backlog=5, family=socket.AF_INET)
    server = WSGIServer(listener, hello, log=None, spawn=pool.Pool())
    running = gevent.spawn(server.serve_forever)
    with Client(server) as client:
        assert client.get()[2] == b"hello"
        server.close()
    running.get(timeout=5)
    assert errors.getvalue() == ""


def test_server_can_be_stopped_when_its_socket_is_closed_already(serve, errors):
    server = serve(hello)
    with Client(server) as client:
        client.send(LAST)
        assert client.answer()[2] == b"hello"
    server.socket.close()
    server.stop(1)
    assert not server.started
    assert errors.getvalue() == ""


@pytest.mark.parametrize("is_tls", [False, True])
def test_methods_of_a_server_are_called_as_often_as_they_must(certificate, is_tls):
    """Programs extend them: what is released in `close`, for instance, is released once."""
    names = ["set_listener", "set_spawn", "set_environ", "set_max_accept", "init_socket", "update_environ", "start",
             "start_accepting", "do_handle", "handle", "get_environ", "do_close", "close", "stop"]
    if is_tls:
        names.insert(names.index("handle"), "wrap_socket_and_handle")

    def extended(name):
        def method(self, *arguments, **options):
            called.append(name)
            return getattr(WSGIServer, name)(self, *arguments, **options)

        return method

    called = []
    own = type("Own", (WSGIServer,), {name: extended(name) for name in names})
    with own(("127.0.0.1", 0), hello, log=None, **certificate if is_tls else {}) as server:
        server.start()
        with (TLSClient if is_tls else Client)(server) as client:
            client.send(LAST)
            assert client.answer()[2] == b"hello"
            assert client.at_end()
        while "do_close" not in called:
            gevent.sleep(0.001)
    assert sorted(called) == sorted(names)


def test_server_may_deal_with_handshakes_that_fail(certificate, errors):
    class Own(WSGIServer):
        def wrap_socket_and_handle(self, client_socket, address):
            try:
                return super().wrap_socket_and_handle(client_socket, address)
            except ssl.SSLError as error:
                failed[address] = error

    failed, log = {}, io.StringIO()
    with Own(("127.0.0.1", 0), hello, log=None, error_log=log, **certificate) as server:
        server.start()
        for sent, kind in [(b"", ssl.SSLEOFError), (b"GET / HTTP/1.1\r\n\r\n", ssl.SSLError)]:
            with Client(server) as client:
                address = client.sock.getsockname()
                client.send(sent)
                client.sock.shutdown(socket.SHUT_WR)
                while address not in failed:
                    gevent.sleep(0.001)
                assert isinstance(failed[address], kind)
        with TLSClient(server) as client:
            assert client.get()[2] == b"hello"
    assert len(failed) == 2
    assert errors.getvalue() == log.getvalue() == ""


def test_processes_that_are_forked_with_a_listener():
    """The recipe by which programs used several processors: a listener of `_tcp_listener`, and a server in each."""
    run_script("""
        from gevent import monkey; monkey.patch_all()
        import multiprocessing, os
        from gevent import socket
        from gevent.pywsgi import WSGIServer
        from gevent.server import _tcp_listener

        def application(environ, start_response):
            start_response("200 OK", [("Connection", "close")])
            return [b"%d" % os.getpid()]

        def serve(listener):
            WSGIServer(listener, application, log=None).serve_forever()

        listener = _tcp_listener(("127.0.0.1", 0), backlog=100, reuse_addr=True)
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=serve, args=(listener,), daemon=True) for _ in range(2)]
        for process in processes:
            process.start()
        pids = set()
        while len(pids) < 2:
            with socket.create_connection(listener.getsockname(), timeout=30) as client:
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: t\\r\\n\\r\\n")
                pids.add(int(client.makefile("rb").read().split()[-1]))
        assert pids == {process.pid for process in processes}
        for process in processes:
            process.terminate()
            process.join()
            assert process.exitcode == -15
    """)


def test_server_in_a_thread_of_its_own():
    """As programs without patching have one beside what they do."""
    run_script("""
        import threading, urllib.request
        import gevent
        from gevent.pywsgi import WSGIServer

        def application(environ, start_response):
            start_response("200 OK", [])
            return [threading.current_thread().name.encode()]

        def serve():
            server = WSGIServer(("127.0.0.1", 0), application, log=None)
            server.init_socket()
            known.append(server.server_port)
            server.start()
            stop = gevent.get_hub().loop.async_()
            stop.start(lambda: gevent.spawn(server.stop, 1))
            known.append(stop)
            ready.set()
            server.serve_forever()

        known, ready = [], threading.Event()
        thread = threading.Thread(target=serve, name="server")
        thread.start()
        assert ready.wait(30)
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{known[0]}/", timeout=30) as answer:
                assert answer.read() == b"server"
        known[1].send()
        thread.join(30)
        assert not thread.is_alive()
    """)
