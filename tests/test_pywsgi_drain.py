"""How a pywsgi server ends: what is answered, what is closed, and who may still ask."""
import _socket

import gevent
import pytest
from gevent import socket, ssl
from gevent.pywsgi import WSGIHandler, WSGIServer
from http_client import Client, WaitingApplication, connect_by_tls, hello, serve_dozing, until, until_connected

pytestmark = pytest.mark.ours_only("the real server's stop() resets connections without an answer, or waits for a pool")


@pytest.mark.parametrize("spawn", ["default", 10])
def test_stop_answers_what_is_in_work_and_closes_the_idle(serve, spawn):
    application = WaitingApplication()
    server = serve(application, spawn=spawn)
    with Client(server) as slow, Client(server) as idle:
        assert idle.get()[0] == 200
        slow.send(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        assert application.entered.wait(5)
        stopping = gevent.spawn(server.stop, timeout=30)
        assert idle.at_end()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", slow.sock.getpeername()[1]))
        assert not stopping.ready()
        application.go.set()
        status, headers, body = slow.answer()
        assert (status, headers["connection"], body) == (200, "close", b"hello")
        assert slow.at_end()
        stopping.get(timeout=5)


def test_stop_closes_dozing_connections_at_once(serve):
    server, client = serve_dozing(serve, hello)
    with client:
        server.stop(timeout=30)
        assert client.at_end()
        assert len(server._service) == 0


def test_stop_gives_up_after_its_timeout(serve):
    application = WaitingApplication()
    server = serve(application)
    with Client(server) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        assert application.entered.wait(5)
        server.stop(timeout=0.05)
        application.go.set()
        assert client.answer()[0] == 200


def test_server_can_be_stopped_by_a_request(serve):
    def application(environ, start_response):
        server.stop(timeout=30)
        return hello(environ, start_response)

    server = serve(application)
    with Client(server) as client:
        assert client.get()[1]["connection"] == "close"


def test_request_that_is_on_its_way_when_the_server_stops_is_answered(serve):
    server = serve(hello)
    with Client(server) as client:
        assert client.get()[0] == 200
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        # No switch in between: the server has not seen it.
        server.close()
        assert client.answer()[1]["connection"] == "close"
        assert client.at_end()


def test_stopped_server_can_be_started_again(serve):
    server = serve(hello)
    with Client(server) as client:
        assert client.get()[0] == 200
    server.stop()
    server.set_listener(("127.0.0.1", 0))
    server.set_spawn("default")
    server.start()
    with Client(server) as client:
        assert client.get()[0] == 200
        assert client.get()[1].get("connection") != "close"


def test_two_servers_share_a_port(serve):
    one = serve(hello, reuse_port=True)
    two = WSGIServer(one.address, hello, log=None, reuse_port=True)
    two.start()
    try:
        assert two.server_port == one.server_port
    finally:
        two.stop()


# -- who has had no answer yet --------------------------------------------------------------------------------------


REQUEST = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


class LineReader(WSGIHandler):
    """Reads request lines itself."""

    def read_requestline(self):
        return super().read_requestline()


def begin_to_stop(server, **options):
    """Stop the server in a greenlet, and return that when idle connections are closed."""
    stopping = gevent.spawn(server.stop, **options)
    until(lambda: server._service.draining)
    # Longer than busy connections may still bring a request.
    gevent.sleep(0.2)
    assert not stopping.ready()
    return stopping


def assert_is_last_answer(client):
    status, headers, body = client.answer()
    assert (status, headers["connection"], body) == (200, "close", b"hello")
    assert client.at_end()


@pytest.mark.parametrize("before", [b"", b"G", REQUEST[:-1]])
@pytest.mark.parametrize("options", [{}, {"spawn": 10}, {"handler_class": LineReader}, {"header_timeout": None}])
def test_client_that_is_connected_when_the_server_stops_is_answered(serve, before, options):
    server = serve(hello, **options)
    with Client(server) as client:
        client.send(before)
        until_connected(server, 1)
        stopping = begin_to_stop(server, timeout=30)
        client.send(REQUEST[len(before):])
        assert_is_last_answer(client)
        stopping.get(timeout=5)


def test_client_that_has_been_silent_for_long_is_answered(serve):
    server = serve(hello)
    with Client(server) as client:
        until(lambda: server._service.dozing)
        gevent.sleep(1.1)
        stopping = begin_to_stop(server, timeout=30)
        client.send(REQUEST)
        assert_is_last_answer(client)
        stopping.get(timeout=5)


def test_client_that_the_system_has_connected_is_answered(serve):
    server = serve(hello)
    # Without a switch: the server has not accepted them.
    clients = [_socket.socket() for _ in range(50)]
    for client in clients:
        client.connect(server.address)
    server.close()
    assert len(server._service) == len(clients)
    for client in clients:
        client.sendall(REQUEST)
    for client in clients:
        with socket.socket(fileno=client.detach()) as sock, sock.makefile("rb") as file:
            answer = file.read()
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nConnection: close\r\n" in answer


def test_head_that_has_begun_may_be_ended_on_a_kept_connection(serve):
    server = serve(hello)
    with Client(server) as client:
        assert client.get()[0] == 200
        client.send(REQUEST[:10])
        gevent.sleep(0.01)
        stopping = begin_to_stop(server, timeout=30)
        client.send(REQUEST[10:])
        assert_is_last_answer(client)
        stopping.get(timeout=5)


def test_proxy_header_may_come_late(serve):
    server = serve(hello, proxy_protocol=True)
    with Client(server) as client:
        until_connected(server, 1)
        stopping = begin_to_stop(server, timeout=30)
        client.send(b"PROXY UNKNOWN\r\n")
        client.send(REQUEST)
        assert_is_last_answer(client)
        stopping.get(timeout=5)


@pytest.mark.parametrize(("options", "timeout"), [
    ({"first_request_timeout": 0.2}, 30),
    ({"header_timeout": 0.2}, 30),
    ({}, 0.2),
    ({"first_request_timeout": 0.2, "spawn": 10}, 30),
    ({"first_request_timeout": 0.2, "proxy_protocol": True}, 30),
    ({"first_request_timeout": 0.2, "handler_class": LineReader}, 30),
])
def test_silent_client_is_closed_in_the_end(serve, options, timeout):
    server = serve(hello, **options)
    with Client(server) as client:
        until_connected(server, 1)
        server.stop(timeout=timeout)
        assert client.at_end()


def test_head_that_does_not_end_in_time_is_answered_by_408(serve):
    server = serve(hello, first_request_timeout=0.1)
    with Client(server) as client:
        client.send(b"GET / HT")
        until_connected(server, 1)
        gevent.sleep(0.01)
        server.stop(timeout=30)
        assert client.answer()[0] == 408


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_stop_closes_idle_tls_connections(serve, certificate):
    server = serve(hello, **certificate)
    with connect_by_tls(server) as sock:
        sock.sendall(REQUEST)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        server.stop(timeout=30)
        assert len(server._service) == 0


def test_tls_request_that_is_on_its_way_when_the_server_stops_is_answered(serve, certificate):
    server = serve(hello, **certificate)
    with connect_by_tls(server) as sock, sock.makefile("rb") as file:
        sock.sendall(REQUEST)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        gevent.sleep(0.01)
        server.close()
        sock.sendall(REQUEST)
        assert b"\r\nConnection: close\r\n" in file.read()


class SteppingClient:
    """A TLS client that makes its handshake in steps."""

    def __init__(self, server):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = socket.create_connection(server.address, timeout=30)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.unsent = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.sock.close()

    def call(self, function, *arguments):
        """Return what a method of the TLS object does, receiving and sending for it as need be."""
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.sock.recv(65536))
            finally:
                self.flush()

    def flush(self):
        self.unsent += self.outgoing.read()
        self.sock.sendall(self.unsent)
        self.unsent = b""

    def send_half_a_hello(self):
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        hello = self.outgoing.read()
        self.sock.sendall(hello[:len(hello) // 2])
        self.unsent = hello[len(hello) // 2:]

    def shake_hands(self):
        self.call(self.tls.do_handshake)

    def send_half_a_head(self):
        self.shake_hands()
        self.call(self.tls.write, REQUEST[:10])
        self.has_begun = True

    has_begun = False

    def ask(self):
        self.call(self.tls.write, REQUEST[10:] if self.has_begun else REQUEST)
        answer = b""
        while not answer.endswith(b"hello"):
            answer += self.call(self.tls.read, 65536)
        return answer


@pytest.mark.parametrize("step", [None, SteppingClient.send_half_a_hello, SteppingClient.shake_hands,
                                  SteppingClient.send_half_a_head])
def test_tls_client_that_is_connected_when_the_server_stops_is_answered(serve, certificate, errors, step):
    server = serve(hello, **certificate)
    with SteppingClient(server) as client:
        until_connected(server, 1)
        if step is not None:
            step(client)
        stopping = begin_to_stop(server, timeout=30)
        client.shake_hands()
        answer = client.ask()
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nConnection: close\r\n" in answer
        stopping.get(timeout=5)
    assert errors.getvalue() == server.error_log.getvalue() == ""


@pytest.mark.parametrize("step", [None, SteppingClient.send_half_a_hello, SteppingClient.shake_hands])
def test_silent_tls_client_is_closed_in_the_end(serve, certificate, errors, step):
    server = serve(hello, **certificate, first_request_timeout=0.2)
    with SteppingClient(server) as client:
        until_connected(server, 1)
        if step is not None:
            step(client)
        server.stop(timeout=30)
        assert len(server._service) == 0
    assert errors.getvalue() == server.error_log.getvalue() == ""
