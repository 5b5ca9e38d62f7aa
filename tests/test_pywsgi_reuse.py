"""What a connection leaves behind is no other connection's, though a server may use it again where nobody can tell."""
import contextlib
import contextvars
import gc
import io
import time
import weakref

import gevent
import pytest
from gevent import local, pywsgi, socket
from gevent.event import Event
from http_client import Client, hello, until
from implementation import IS_GREENRUST

COUNT = 5


@pytest.fixture
def serve():
    servers = []

    def start(application, host="127.0.0.1", **options):
        options.setdefault("log", None)
        server = pywsgi.WSGIServer((host, 0), application, error_log=io.StringIO(), **options)
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


# -- connections that one greenlet serves in turn ---------------------------------------------------------------------


def ask_all(clients, path="/"):
    """Have all clients make a request before the server runs; return the bodies of the answers."""
    for client in clients:
        client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return [client.answer()[2] for client in clients]


def before_any_is_idle(ask):
    """Return what `ask` does; repeat it until it takes less than the second after which connections lose greenlets."""
    for _ in range(100):
        started = time.monotonic()
        result = ask()
        if time.monotonic() - started < 0.9:
            return result
    raise AssertionError("the system is too busy")


@pytest.fixture
def connect(serve):
    """Return a function that returns a server and COUNT clients whose connections were served before."""
    with contextlib.ExitStack() as stack:

        def start(application, **options):
            server = serve(application, **options)
            clients = [stack.enter_context(Client(server)) for _ in range(COUNT)]
            assert ask_all(clients, "/first") == [b"hello"] * COUNT
            return server, clients

        yield start


@pytest.mark.ours_only("the real server has a greenlet for each connection")
def test_connections_that_are_ready_at_once_are_served_by_one_greenlet(connect):
    serving = []

    def application(environ, start_response):
        serving.append(id(gevent.getcurrent()))
        return hello(environ, start_response)

    server, clients = connect(application)
    assert server._service.dozing == COUNT
    # A busy system may deliver some of the requests later.
    for _ in range(100):
        serving.clear()
        assert ask_all(clients) == [b"hello"] * COUNT
        assert server._service.dozing == len(server._service) == COUNT
        if len(set(serving)) == 1:
            break
    assert len(set(serving)) == 1


def test_request_that_waits_holds_up_no_other(connect):
    go = Event()
    waiting = []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow" and len(waiting) < 2:
            waiting.append(environ["REMOTE_PORT"])
            go.wait()
        return hello(environ, start_response)

    _, clients = connect(application)
    for client in clients:
        client.send(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
    while len(waiting) < 2:
        gevent.sleep(0)
    slow = [client for client in clients if str(client.sock.getsockname()[1]) in waiting]
    others = [client for client in clients if client not in slow]
    assert [client.answer()[2] for client in others] == [b"hello"] * (COUNT - 2)
    # Also while they wait.
    assert ask_all(others) == [b"hello"] * (COUNT - 2)
    go.set()
    assert [client.answer()[2] for client in slow] == [b"hello"] * 2
    assert ask_all(clients) == [b"hello"] * COUNT


variable = contextvars.ContextVar("variable", default=None)
data = local.local()


class InContext:
    def get(self):
        return variable.get()

    def set(self, value):
        variable.set(value)


class InLocal:
    def get(self):
        return getattr(data, "note", None)

    def set(self, value):
        data.note = value


class InGreenlet:
    def get(self):
        return getattr(gevent.getcurrent(), "note", None)

    def set(self, value):
        gevent.getcurrent().note = value


@pytest.mark.parametrize("place", [InContext(), InLocal(), InGreenlet()], ids=lambda place: type(place).__name__)
@pytest.mark.parametrize("path", ["/first", "/second"])
def test_what_a_greenlet_is_given_stays_with_its_connection(connect, place, path):
    found = {}

    def application(environ, start_response):
        port = environ["REMOTE_PORT"]
        found.setdefault(port, []).append(place.get())
        if environ["PATH_INFO"] == path:
            place.set(port)
        return hello(environ, start_response)

    def ask():
        found.clear()
        _, clients = connect(application)
        ask_all(clients, "/second")
        ask_all(clients, "/third")
        return clients

    clients = before_any_is_idle(ask)
    ports = [str(client.sock.getsockname()[1]) for client in clients]
    assert found == {port: [None, port if path == "/first" else None, port] for port in ports}


def test_greenlet_that_somebody_knows_is_the_connections_own(connect):
    known, ended = {}, []

    def application(environ, start_response):
        greenlet = gevent.getcurrent()
        known.setdefault(environ["REMOTE_PORT"], set()).add(greenlet)
        return hello(environ, start_response)

    def note_end(greenlet):
        ended.append(greenlet)

    def ask():
        known.clear()
        _, clients = connect(application)
        ask_all(clients)
        return clients

    clients = before_any_is_idle(ask)
    assert [len(greenlets) for greenlets in known.values()] == [1] * COUNT
    own = [greenlet for greenlets in known.values() for greenlet in greenlets]
    assert len(set(own)) == COUNT
    for greenlet in own:
        assert not greenlet.dead
        greenlet.rawlink(note_end)
    for client in clients:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.at_end()
    gevent.joinall(own, timeout=10)
    gevent.sleep(0)
    assert set(ended) == set(own)


def test_timeout_that_is_left_behind_hits_its_own_connection(connect):
    """Those of others are served in full, whatever one leaves behind."""
    timeouts = []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/leave":
            timeouts.append(gevent.Timeout.start_new(0.02))
        elif environ["PATH_INFO"] == "/wait":
            while not timeouts or timeouts[0].pending:
                gevent.sleep(0.005)
        return hello(environ, start_response)

    _, clients = connect(application)
    clients[0].send(b"GET /leave HTTP/1.1\r\nHost: test\r\n\r\n")
    assert ask_all(clients[1:], "/wait") == [b"hello"] * (COUNT - 1)
    assert clients[0].answer()[2] == b"hello"
    for timeout in timeouts:
        timeout.close()


@pytest.mark.parametrize("error", [gevent.GreenletExit, ValueError])
def test_application_that_raises_hinders_no_other(connect, error):
    failed = []

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fail" and not failed:
            failed.append(environ["REMOTE_PORT"])
            raise error("on purpose")
        return hello(environ, start_response)

    _, clients = connect(application)
    for client in clients:
        client.send(b"GET /fail HTTP/1.1\r\nHost: test\r\n\r\n")
    while not failed:
        gevent.sleep(0)
    others = [client for client in clients if str(client.sock.getsockname()[1]) not in failed]
    assert [client.answer()[2] for client in others] == [b"hello"] * (COUNT - 1)
    assert ask_all(others) == [b"hello"] * (COUNT - 1)


def test_new_connections_that_send_nothing_hold_up_no_other(serve):
    server = serve(hello)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Client(server)) for _ in range(COUNT)]
        with Client(server) as client:
            assert client.get()[0] == 200
            assert client.get()[0] == 200
        for client in silent:
            assert client.get()[0] == 200


@pytest.mark.ours_only("the real server's stop() does not wait for requests")
def test_stop_answers_the_requests_of_resting_connections(connect):
    server, clients = connect(hello)
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    server.stop(timeout=10)
    for client in clients:
        status, headers, body = client.answer()
        assert (status, body) == (200, b"hello")
        assert headers.get("connection") == "close"
        assert client.at_end()


# -- connections that are kept, and idle between their requests ---------------------------------------------------


def until_idle(server, count=1):
    """Wait until so many connections are idle; the real server does not tell."""
    if IS_GREENRUST:
        until(lambda: server._service.dozing == count)
    else:
        gevent.sleep(0.01)


def address_of(client):
    return tuple(map(str, client.sock.getsockname()[:2]))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_kept_connection_has_its_own_address_socket_and_timeout(serve, host):
    def application(environ, start_response):
        handler = start_response.__self__
        seen.append((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]))
        assert tuple(map(str, handler.client_address[:2])) == seen[-1]
        assert handler.socket.getpeername()[:2] == handler.client_address[:2]
        timeouts.setdefault(seen[-1], []).append(handler.socket.gettimeout())
        handler.socket.settimeout(30)
        return hello(environ, start_response)

    seen, timeouts = [], {}
    server = serve(application, host=host)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(COUNT)]
        for client in [*clients, *reversed(clients)]:
            assert client.get()[0] == 200
            gevent.sleep(0.01)
            assert seen[-1] == address_of(client)
    assert set(map(tuple, timeouts.values())) == {(None, 30)}


def test_kept_connections_take_bodies_in_turn(serve):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["REMOTE_PORT"].encode() + environ["wsgi.input"].read()]

    server = serve(application)
    with Client(server) as one, Client(server) as other:
        for size in (0, 1, 70_000, 0, 3):
            for client in (one, other):
                body = bytes([size % 251]) * size
                client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s" % (size, body))
                assert client.answer()[2] == address_of(client)[1].encode() + body
            until_idle(server, 2)


@pytest.mark.ours_only("the real server refuses empty lines before a request line")
def test_empty_lines_between_requests_are_no_other_connections(serve):
    server = serve(hello)
    with Client(server) as one, Client(server) as other:
        for left, rest in [(b"\r\n", b""), (b"\r", b"\n"), (b"\r\n\r", b"\n")]:
            one.send(left)
            gevent.sleep(0.01)
            assert other.get()[0] == 200
            one.send(rest)
            assert one.get()[0] == 200


@pytest.mark.ours_only("the real server refuses the first empty line before a request line")
def test_empty_lines_are_counted_however_slowly_they_come(serve):
    server = serve(hello)
    with Client(server) as client:
        for _ in range(5):
            client.send(b"\r\n")
            gevent.sleep(0.01)
        assert client.answer()[0] == 400


def test_server_that_an_application_gives_its_handler_is_of_that_connection_alone(serve):
    def application(environ, start_response):
        start_response.__self__.server = other
        return hello(environ, start_response)

    def of_other(environ, start_response):
        start_response("200 OK", [])
        return [b"other"]

    server, other = serve(application), serve(of_other)
    with Client(server) as client:
        assert [client.get()[2] for _ in range(2)] == [b"hello", b"other"]
        gevent.sleep(0.01)
        assert client.get()[2] == b"other"
    for _ in range(COUNT):
        gevent.sleep(0.01)
        with Client(server) as client:
            assert client.get()[2] == b"hello"


@pytest.mark.parametrize("is_served", [True, False])
@pytest.mark.parametrize("left", [b"", b"\r", b"\r\n", b"\r\n\r\n"])
def test_client_that_leaves_with_an_empty_line_leaves_nothing_of_it(serve, left, is_served):
    def application(environ, start_response):
        assert environ["REQUEST_METHOD"] == "GET"
        return hello(environ, start_response)

    server = serve(application)
    for end in (Client.__exit__, lambda client: client.sock.shutdown(socket.SHUT_WR)):
        with Client(server) as client:
            assert not is_served or client.get()[0] == 200
            client.send(left)
            gevent.sleep(0.01)
            end(client)
            until_idle(server, 0)
        get_and_close(server)


def test_client_that_sends_a_head_in_pieces_is_understood(serve):
    server = serve(hello)
    with Client(server) as one, Client(server) as other:
        for piece in (b"G", b"ET / HTTP/1.1\r\nHo", b"st: t\r\n"):
            one.send(piece)
            assert other.get()[0] == 200
        one.send(b"\r\n")
        assert one.answer()[0] == 200


@pytest.mark.parametrize("part", [input_of, handler_of, socket_of, start_response_of, write_of])
def test_what_an_application_keeps_of_a_kept_connection_stays_its_own(serve, part):
    def application(environ, start_response):
        kept.append((environ["REMOTE_PORT"], part(environ, start_response)))
        return hello(environ, start_response)

    kept = []
    server = serve(application)
    with Client(server) as one, Client(server) as other:
        for client in (one, other, one, other):
            assert client.get()[0] == 200
            gevent.sleep(0.01)
        for port, thing in kept:
            if part is handler_of:
                assert str(thing.client_address[1]) == port
            if part is socket_of:
                assert str(thing.getpeername()[1]) == port


def test_address_that_an_application_sets_stays_set(serve):
    def application(environ, start_response):
        handler = start_response.__self__
        seen.append(handler.client_address)
        handler.client_address = ("192.0.2.1", environ["REMOTE_PORT"])
        return hello(environ, start_response)

    seen = []
    server = serve(application)
    with Client(server) as client:
        for _ in range(2):
            assert client.get()[0] == 200
            gevent.sleep(0.01)
    assert seen[1][0] == "192.0.2.1"


@pytest.mark.ours_only("the real server has a handler and a greenlet for each connection")
def test_idle_connections_need_no_handlers(serve):
    server = serve(hello)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            assert stack.enter_context(Client(server)).get()[0] == 200
        until_idle(server, 50)
        handlers = [one for one in gc.get_objects() if type(one) is pywsgi.WSGIHandler and one.server is server]
        assert len(handlers) < 10


@pytest.mark.ours_only("the real server leaves idle connections open")
def test_idle_connections_end_with_their_server(serve):
    server = serve(hello)
    with Client(server) as client:
        assert client.get()[0] == 200
        until_idle(server, 1)
        server.close()
        assert client.at_end()
