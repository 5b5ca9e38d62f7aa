"""pywsgi's limits and time-outs, and who is closed when there are too many."""
import contextlib
import re
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from http_client import Client, WaitingApplication, connect_by_tls, hello, serve_dozing, until, until_connected
from implementation import run_script

pytestmark = pytest.mark.ours_only("the real gevent has no limits but that of the request line, and no time-outs")


def read_body(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body]


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "request_head", "status"),
    [
        ({"max_request_line": 30}, b"GET /4567890123456 HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ({"max_request_line": 30}, b"GET /4567890123456789012 HTTP/1.1\r\nHost: t\r\n\r\n", 414),
        ({"max_header_bytes": 40}, b"GET / HTTP/1.1\r\nHost: t\r\nX: 123456789\r\n\r\n", 200),
        ({"max_header_bytes": 40}, b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"1" * 30 + b"\r\n\r\n", 431),
        ({"max_header_count": 2}, b"GET / HTTP/1.1\r\nHost: t\r\nX: 1\r\n\r\n", 200),
        ({"max_header_count": 2}, b"GET / HTTP/1.1\r\nHost: t\r\nX: 1\r\nY: 1\r\n\r\n", 431),
        ({}, b"GET / HTTP/1.1\r\n\r\n", 400),
        ({"require_host": False}, b"GET / HTTP/1.1\r\n\r\n", 200),
        ({"max_body_bytes": 4}, b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody", 200),
        ({"max_body_bytes": 4}, b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nbody!", 413),
        ({"max_body_bytes": 4}, b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                                b"4\r\nbody\r\n0\r\n\r\n", 200),
        ({"max_body_bytes": 4}, b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                                b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n", 413),
    ],
)
def test_size_beyond_its_limit_is_refused_and_the_connection_closed(serve, options, request_head, status):
    with Client(serve(read_body, **options)) as client:
        client.send(request_head)
        assert client.answer()[0] == status
        if status == 200:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.answer()[0] == 200
        assert client.at_end()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_request_line": 0}, ValueError),
        ({"max_request_line": "8k"}, TypeError),
        ({"max_header_count": -1}, ValueError),
        ({"max_body_bytes": 1.5}, TypeError),
        ({"max_connections": 0}, ValueError),
        ({"max_connections": True}, TypeError),
        ({"header_timeout": 0}, ValueError),
        ({"header_timeout": float("nan")}, ValueError),
        ({"keep_alive_timeout": "1"}, TypeError),
        ({"write_timeout": -1}, ValueError),
        ({"require_host": 1}, TypeError),
        ({"log_format": "%z"}, ValueError),
        ({"server_header": "a\r\nb"}, ValueError),
        ({"trusted_proxies": ["localhost"]}, ValueError),
        ({"trusted_proxies": 5}, TypeError),
        ({"proxy_protocol": "v1"}, TypeError),
    ],
)
def test_senseless_parameter_is_refused_by_name(options, error):
    (name, value), = options.items()
    with pytest.raises(error, match=name) as raised:
        WSGIServer(("127.0.0.1", 0), hello, **options)
    shown = value[0] if isinstance(value, list) else value
    assert str(shown) in str(raised.value) or repr(shown)[1:-1] in str(raised.value)


# -- time-outs ------------------------------------------------------------------------------------------------------


def test_head_that_does_not_end_in_time_is_answered_by_408(serve):
    with Client(serve(hello, header_timeout=0.05)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost:")
        assert client.answer()[0] == 408
        assert client.at_end()


def test_single_bytes_do_not_prolong_the_time_for_a_head(serve):
    with Client(serve(hello, header_timeout=0.2)) as client:
        client.sock.settimeout(0.01)
        client.send(b"GET / HTTP/1.1\r\nX: ")
        data = b""
        while not data:
            client.send(b"x")
            try:
                data = client.sock.recv(100)
            except TimeoutError:
                pass
    assert data.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nX: "])
def test_single_bytes_do_not_prolong_it_for_a_handler_that_reads_itself(serve, start):
    class Handler(WSGIHandler):
        def read_requestline(self):
            return super().read_requestline()

    with Client(serve(hello, handler_class=Handler, header_timeout=0.2)) as client:
        client.sock.settimeout(0.01)
        client.send(start)
        ended = False
        while not ended:
            try:
                client.send(b"x")
                data = client.sock.recv(100)
                assert not data or data.startswith(b"HTTP/1.1 408 ")
                ended = True
            except TimeoutError:
                pass
            except OSError:
                ended = True


def test_silent_new_connection_is_closed(serve):
    with Client(serve(hello, header_timeout=0.05)) as client:
        assert client.at_end()


def test_idle_connection_is_closed(serve):
    with Client(serve(hello, keep_alive_timeout=0.05)) as client:
        assert client.get()[0] == 200
        assert client.at_end()


def test_body_that_does_not_come_is_answered_by_408(serve):
    with Client(serve(read_body, body_timeout=0.05)) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nbod")
        assert client.answer()[0] == 408
        assert client.at_end()


def test_bytes_of_another_protocol_that_do_not_come_are_answered_by_408(serve):
    with Client(serve(read_body, body_timeout=0.05)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert client.answer()[0] == 408
        assert client.at_end()


@pytest.mark.parametrize("read", ["read", "readline", "read1", "readinto"])
def test_another_protocol_may_be_silent(serve, read):
    def application(environ, start_response):
        write = start_response("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "x")])
        write(b"now")
        method = getattr(environ["wsgi.input"], read)
        write(b"" if method(bytearray(5) if read == "readinto" else 5) else b"nothing")
        return []

    with Client(serve(application, body_timeout=0.01)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert client.answer(head_only=True)[0] == 101
        assert client.file.read(3) == b"now"
        # Five times as long as a body's bytes would have.
        gevent.sleep(0.05)
        client.send(b"hello")
        assert client.at_end()


def test_client_that_reads_nothing_is_cut_off(serve, errors):
    closed = Event()

    class Body:
        def __iter__(self):
            while True:
                yield b"x" * 100000

        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [])
        return Body()

    with Client(serve(application, write_timeout=0.05)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert closed.wait(30)
    assert errors.getvalue() == ""


# -- idle connections -----------------------------------------------------------------------------------------------


def test_connection_that_has_dozed_is_served_on(serve):
    greenlets = []

    class Handler(WSGIHandler):
        pass

    def application(environ, start_response):
        greenlets.append(gevent.getcurrent())
        return hello(environ, start_response)

    server, client = serve_dozing(serve, application, handler_class=Handler)
    with client:
        assert greenlets[0].dead
        # A piece of a head is kept while the rest is awaited.
        client.send(b"GET / HTTP/1.1\r\nHo")
        gevent.sleep(0.01)
        client.send(b"st: t\r\n\r\n")
        assert client.answer()[0] == 200
        assert client.get()[0] == 200
        assert len(server._service) == 1
    assert greenlets[1] is greenlets[2] is not greenlets[0]


def test_dozing_connection_ends_with_its_time(serve):
    # It dozes after a second. The rest is time to see that on a busy machine.
    _, client = serve_dozing(serve, hello, keep_alive_timeout=3)
    with client:
        assert client.at_end()


def test_dozing_connection_that_the_client_closes_is_forgotten(serve):
    server, client = serve_dozing(serve, hello)
    with client:
        pass
    until(lambda: not len(server._service))


def test_pool_keeps_the_greenlet_of_an_idle_connection(serve):
    server = serve(hello, spawn=Pool(1))
    with Client(server) as client:
        assert client.get()[0] == 200
        gevent.sleep(1.2)
        assert server._service.dozing == 0
        assert client.get()[0] == 200


# -- too many -------------------------------------------------------------------------------------------------------


def test_connection_that_waits_longest_is_closed_for_a_new_one(serve):
    server = serve(hello, max_connections=2)
    with Client(server) as first, Client(server) as second, Client(server) as third:
        assert first.get()[0] == 200
        assert second.get()[0] == 200
        assert third.get()[0] == 200
        assert first.at_end()
        assert second.get()[0] == 200


def test_connections_with_a_request_in_work_are_not_closed_for_new_ones(serve):
    application = WaitingApplication()
    server = serve(application, max_connections=1)
    with Client(server) as slow, Client(server) as other:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        assert application.entered.wait(5)
        other.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        # Time for many chances to be wrong.
        gevent.sleep(0.6)
        application.go.set()
        assert slow.answer()[0] == 200
        assert other.answer()[0] == 200


def test_everyone_is_served_in_turn_where_there_is_room_for_one(serve):
    entered, go = Event(), Event()

    def application(environ, start_response):
        entered.set()
        go.wait()
        return hello(environ, start_response)

    server = serve(application, max_connections=1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(5)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert entered.wait(5)
        # One more has been accepted, and waits for room.
        while not server._surplus:
            gevent.sleep(0.001)
        go.set()
        assert [client.answer()[0] for client in clients] == [200] * 5


def test_connections_wait_for_workers_that_memory_is_wanting_for():
    completed = run_script("""
        import io, resource
        import gevent
        from gevent import socket
        from gevent.event import Event
        from gevent.pywsgi import WSGIServer

        def application(environ, start_response):
            go.wait()
            start_response("200 OK", [])
            return [b"fine"]

        # Loaded before there is no room for it.
        "".encode("idna")
        gevent.get_hub().exception_stream = report = io.StringIO()
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        go = Event()
        server = WSGIServer(("127.0.0.1", 0), application, log=None)
        server.start()
        clients = []
        while "no memory for another greenlet" not in report.getvalue():
            assert len(clients) < 600
            clients.append(socket.create_connection(server.address))
            clients[-1].sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            gevent.sleep(0)
        go.set()
        for client in clients:
            with client.makefile("rb") as file:
                assert file.read().endswith(b"fine")
            client.close()
        server.stop()
        print("answered", len(clients) > 10)
    """)
    assert completed.stdout == "answered True\n"


# RFC 6455 5.2: a masked text of one byte, whose key is zero.
TEXT = b"\x81\x81\0\0\0\0a"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(("head", "piece"), [
    (b"", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    (HANDSHAKE, TEXT),
    (b"GET /stream HTTP/1.1\r\nHost: t\r\n\r\n", b""),
], ids=["requests", "messages", "response"])
def test_client_that_never_lets_the_server_wait_does_not_keep_others_waiting(serve, head, piece):
    COUNT = 40
    served, seen = [], set()

    def work():
        # For longer than one client's turn is.
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        served.append(1)
        return b"x"

    def application(environ, start_response):
        if websocket := environ.get("wsgi.websocket"):
            for _ in websocket:
                work()
            return []
        start_response("200 OK", [])
        return (work() for _ in range(COUNT)) if environ["PATH_INFO"] == "/stream" else [work()]

    def other():
        while len(served) < COUNT:
            seen.add(len(served))
            gevent.sleep(0)

    with Client(serve(application)) as client:
        client.send(head + piece * COUNT)
        gevent.spawn(other).join()
    assert len(seen) >= COUNT // 2


def test_five_thousand_slow_heads_do_not_stop_service():
    script = """
        import gevent
        from gevent import socket
        from gevent.pywsgi import WSGIServer

        COUNT = room_for_pairs(5000)

        def application(environ, start_response):
            start_response("200 OK", [])
            return [b"hello"]

        server = WSGIServer(("127.0.0.1", 0), application, log=None, max_connections=COUNT, header_timeout=None)
        server.start()
        attackers = []
        for number in range(COUNT):
            attackers.append(socket.create_connection(server.address))
            attackers[-1].sendall(b"GET / HTTP/1.1\\r\\nHost: t\\r\\nX-%d:" % number)
            # Beyond the backlog the system would let each wait for a second.
            while number % 64 == 0 and len(server._service) < number:
                gevent.sleep(0)
        while len(server._service) < COUNT:
            gevent.sleep(0.01)
        for _ in range(20):
            with socket.create_connection(server.address) as sock:
                sock.sendall(b"GET / HTTP/1.1\\r\\nHost: t\\r\\nConnection: close\\r\\n\\r\\n")
                with sock.makefile("rb") as file:
                    assert file.read().endswith(b"hello")
        assert len(server._service) <= COUNT + 20
        print("served", COUNT)
    """
    assert re.search(r"served \d+", run_script(script).stdout)


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "limit", "data", "status"), [
    # The handshake of a busy machine has to be made in this time too.
    ("header_timeout", 1.5, b"GET / HT", b"HTTP/1.1 408 "),
    ("body_timeout", 0.2, b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 408 "),
    ("keep_alive_timeout", 0.2, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"HTTP/1.1 200 "),
])
def test_time_outs_hold_for_tls(serve, certificate, option, limit, data, status):
    with connect_by_tls(serve(read_body, **certificate, **{option: limit})) as sock:
        sock.sendall(data)
        with sock.makefile("rb") as file:
            assert file.read().startswith(status)


@pytest.mark.parametrize("is_tls", [False, True])
def test_client_that_sends_before_it_reads_gets_the_refusal(serve, certificate, is_tls):
    server = serve(read_body, max_body_bytes=1000, **(certificate if is_tls else {}))
    with connect_by_tls(server) if is_tls else socket.create_connection(server.address, timeout=30) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n")
        # The server has answered, and would close.
        gevent.sleep(0.05)
        for _ in range(20):
            sock.sendall(b"x" * 10_000)
            gevent.sleep(0.001)
        with sock.makefile("rb") as file:
            assert file.readline().startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("is_tls", [False, True])
def test_client_that_sends_on_behind_its_last_request_gets_the_answer(serve, certificate, is_tls):
    """RFC 9112 9.6: a connection is closed in stages, or the system answers by a reset that destroys what was sent."""
    server = serve(hello, **(certificate if is_tls else {}))
    with connect_by_tls(server) if is_tls else socket.create_connection(server.address, timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nX:")
        # The server has answered, and would close.
        gevent.sleep(0.05)
        for _ in range(20):
            sock.sendall(b"x" * 10_000)
            gevent.sleep(0.001)
        with sock.makefile("rb") as file:
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"


def test_handshake_that_does_not_end_is_cut_off_without_a_word(serve, certificate, errors):
    with Client(serve(hello, **certificate, header_timeout=0.1)) as client:
        assert client.at_end()
    assert errors.getvalue() == ""


def test_handshake_that_is_none_costs_the_log_one_line(serve, certificate, errors):
    server = serve(hello, **certificate)
    with Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        client.sock.settimeout(30)
        try:
            client.file.read()   # OpenSSL may answer by an alert
        except ConnectionResetError:
            pass
        address = client.sock.getsockname()
    until_connected(server, 0)
    until(lambda: not len(server._service))
    line, = server.error_log.getvalue().splitlines()
    assert str(address) in line and "handshake failed" in line
    assert errors.getvalue() == ""


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
@pytest.mark.parametrize("resets", [False, True])
def test_client_that_goes_away_in_its_handshake_is_not_worth_a_word(serve, certificate, errors, sent, resets):
    server = serve(hello, **certificate)
    with Client(server) as client:
        client.send(sent)
        until_connected(server, 1)
        if resets:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: not len(server._service))
    assert errors.getvalue() == server.error_log.getvalue() == ""


def test_client_that_goes_away_within_an_answer_over_tls_is_not_worth_a_word(serve, certificate, errors):
    ended = Event()

    def application(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            ended.set()

    server = serve(application, **certificate)
    with connect_by_tls(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ended.wait(30)
    until(lambda: not len(server._service))
    assert errors.getvalue() == server.error_log.getvalue() == ""


@pytest.mark.parametrize("is_tls", [False, True])
def test_connection_that_fails_before_anything_is_sent_is_given_up_at_once(serve, certificate, errors, is_tls):
    gone, go = Event(), Event()

    def application(environ, start_response):
        gone.set()
        go.wait()
        start_response("200 OK", [("Content-Length", "1000000")])
        return [b"x" * 1_000_000]

    server = serve(application, **(certificate if is_tls else {}))
    with connect_by_tls(server) if is_tls else socket.create_connection(server.address, timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert gone.wait(30)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    go.set()
    until(lambda: not len(server._service))
    assert errors.getvalue() == server.error_log.getvalue() == ""


def test_certificate_that_is_missing_is_told_loudly(serve, errors):
    with Client(serve(hello, certfile="nowhere.pem")) as client:
        assert client.at_end()
    assert "FileNotFoundError" in errors.getvalue()


def test_connection_that_makes_no_handshake_is_closed_for_a_new_one(serve, certificate, errors):
    server = serve(hello, **certificate, max_connections=2)
    with Client(server) as first, Client(server) as second:
        until_connected(server, 2)
        with connect_by_tls(server) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert first.at_end()
            assert len(server._service) == 2
        # The other one is as it was.
        second.sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            second.sock.recv(1)
    assert errors.getvalue() == ""
