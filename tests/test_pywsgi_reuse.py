"""What a connection leaves behind is no other connection's, though a server may use it again where nobody can tell."""
import gc
import io
import weakref

import gevent
import pytest
from gevent import local, pywsgi
from http_client import Client, hello

COUNT = 5


@pytest.fixture
def serve():
    servers = []

    def start(application, **options):
        options.setdefault("log", None)
        server = pywsgi.WSGIServer(("127.0.0.1", 0), application, error_log=io.StringIO(), **options)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(timeout=1)


def get_and_close(server, body=b""):
    """Make a request on a connection of its own; return the client's port when the server has closed it."""
    with Client(server) as client:
        port = client.sock.getsockname()[1]
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n%s\r\n%s" % (length, body))
        assert client.answer()[0] == 200
        assert client.at_end()
        return port


def test_each_connection_has_its_own_address_and_socket(serve):
    seen = []

    def application(environ, start_response):
        handler = start_response.__self__
        seen.append((environ["REMOTE_ADDR"], environ["REMOTE_PORT"], handler.client_address[:2],
                     handler.socket.getpeername()[:2], handler.socket.gettimeout()))
        handler.socket.settimeout(30)
        return hello(environ, start_response)

    server = serve(application)
    ports = [get_and_close(server) for _ in range(COUNT)]
    addresses = [("127.0.0.1", port) for port in ports]
    assert seen == [(*map(str, address), address, address, None) for address in addresses]


def input_of(environ, start_response):
    return environ["wsgi.input"]


def handler_of(environ, start_response):
    return start_response.__self__


def socket_of(environ, start_response):
    return start_response.__self__.socket


def start_response_of(environ, start_response):
    return start_response


def write_of(environ, start_response):
    return start_response("200 OK", [])


@pytest.mark.parametrize("part", [input_of, handler_of, socket_of, start_response_of, write_of])
def test_what_an_application_keeps_stays_what_it_was(serve, part):
    kept = []

    def application(environ, start_response):
        kept.append(part(environ, start_response))
        return hello(environ, start_response)

    server = serve(application)
    ports = [get_and_close(server) for _ in range(COUNT)]
    assert len({id(one) for one in kept}) == COUNT
    if part is handler_of:
        assert [handler.client_address[1] for handler in kept] == ports
    if part is input_of:
        assert {one.read() for one in kept} == {b""}


def test_attributes_of_a_handler_end_with_it(serve):
    found = []

    def application(environ, start_response):
        handler = start_response.__self__
        found.append(hasattr(handler, "note"))
        handler.note = 1
        return hello(environ, start_response)

    server = serve(application)
    for _ in range(COUNT):
        get_and_close(server)
    assert found == [False] * COUNT


def test_weak_reference_to_a_handler_ends_with_its_connection(serve):
    handlers = []

    def application(environ, start_response):
        handlers.append(weakref.ref(start_response.__self__))
        return hello(environ, start_response)

    server = serve(application)
    get_and_close(server)
    get_and_close(server)
    for _ in range(100):
        gevent.sleep(0)
        gc.collect()
    assert [reference() for reference in handlers] == [None, None]


def test_greenlet_locals_are_new_for_each_connection(serve):
    data = local.local()
    found = []

    def application(environ, start_response):
        found.append(getattr(data, "note", None))
        data.note = environ["REMOTE_PORT"]
        return hello(environ, start_response)

    server = serve(application)
    for _ in range(COUNT):
        get_and_close(server)
    assert found == [None] * COUNT


def test_body_after_requests_without_one(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        bodies.append(environ["wsgi.input"].read())
        return []

    bodies = []
    server = serve(application)
    for body in (b"", b"one", b"", b"another"):
        get_and_close(server, body)
    assert bodies == [b"", b"one", b"", b"another"]


def test_client_that_breaks_off_in_a_head_leaves_nothing_of_it(serve):
    server = serve(hello)
    get_and_close(server)
    for _ in range(COUNT):
        with Client(server) as client:
            client.send(b"GET /broken HTTP/1.1\r\nX-Left: b")
            gevent.sleep(0)
        get_and_close(server)


def test_connections_at_the_same_time_don_t_mix(serve):
    def application(environ, start_response):
        gevent.sleep(0)
        start_response("200 OK", [])
        return [environ["REMOTE_PORT"].encode()]

    server = serve(application)

    def ask():
        with Client(server) as client:
            port = client.sock.getsockname()[1]
            return client.get("/", ["Connection: close"])[2] == str(port).encode()

    for _ in range(3):
        asking = [gevent.spawn(ask) for _ in range(40)]
        gevent.joinall(asking)
        assert all(one.get() for one in asking)


@pytest.mark.parametrize("derives", [False, True])
def test_method_that_is_replaced_between_connections_is_called(serve, monkeypatch, derives):
    class Derived(pywsgi.WSGIHandler):
        pass

    called = []
    handler_class = Derived if derives else pywsgi.WSGIHandler
    server = serve(hello, handler_class=handler_class)
    get_and_close(server)
    original = pywsgi.WSGIHandler.run_application

    def run_application(self):
        called.append(1)
        original(self)

    # Of the base in both cases: what is derived from it has another method then, too.
    monkeypatch.setattr(pywsgi.WSGIHandler, "run_application", run_application)
    get_and_close(server)
    monkeypatch.undo()
    get_and_close(server)
    assert called == [1]


def test_server_method_that_is_replaced_between_connections_is_called(serve):
    called = []
    server = serve(hello)
    get_and_close(server)

    def do_handle(*args):
        called.append(len(args))
        pywsgi.WSGIServer.do_handle(server, *args)

    server.do_handle = do_handle
    get_and_close(server)
    del server.do_handle
    get_and_close(server)
    assert called == [2]
