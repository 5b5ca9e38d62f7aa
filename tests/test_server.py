"""StreamServer."""
import errno
import gc
import linecache
import os
import re
import shutil
import socket as native
import time
import warnings
from pathlib import Path

import gevent
import pytest
from gevent import socket, ssl
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from implementation import run_script


def echo(connection, address):
    for data in iter(lambda: connection.recv(1024), b""):
        connection.sendall(data)


@pytest.fixture
def serve():
    """Return a function that starts a StreamServer on a free port; all are stopped at the end."""
    servers = []

    def start(handle, **options):
        server = StreamServer(("127.0.0.1", 0), handle, **options)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def ask(server, data):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1024), b""))


def test_answers_many_clients(serve):
    server = serve(echo)
    assert server.started and server.server_port > 0
    jobs = [gevent.spawn(ask, server, b"%d" % number) for number in range(20)]
    assert [job.get(timeout=5) for job in jobs] == [b"%d" % number for number in range(20)]


def test_address_is_known_after_the_start(serve):
    server = serve(echo)
    assert server.address == ("127.0.0.1", server.server_port)
    assert server.server_host == "127.0.0.1"


def test_connection_is_closed_when_its_handler_returns(serve):
    server = serve(lambda connection, address: connection.sendall(b"bye"))
    with socket.create_connection(server.address, timeout=5) as client:
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""


def test_failing_handler_is_printed_and_the_server_goes_on(serve, errors):
    def handle(connection, address):
        if connection.recv(10) == b"fail":
            raise KeyError("in handler")
        connection.sendall(b"fine")

    server = serve(handle)
    assert ask(server, b"fail") == b""
    assert ask(server, b"other") == b"fine"
    assert "in handler" in errors.getvalue()


def test_pool_limits_the_connections(serve):
    gate, running, most = Event(), [], []

    def handle(connection, address):
        running.append(1)
        most.append(len(running))
        gate.wait()
        running.pop()

    server = serve(handle, spawn=Pool(2))
    jobs = [gevent.spawn(ask, server, b"") for _ in range(6)]
    while len(running) < 2:
        gevent.sleep(0.001)
    gevent.sleep(0.01)
    assert len(running) == 2
    gate.set()
    gevent.joinall(jobs, timeout=5)
    assert max(most) == 2 and len(most) == 6


def test_stop_refuses_new_connections(serve):
    server = serve(echo)
    address = server.address
    server.stop()
    assert not server.started
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_stop_ends_the_connections_of_its_pool(serve):
    handlers = []

    def handle(connection, address):
        handlers.append(gevent.getcurrent())
        gevent.sleep(1000)

    server = serve(handle, spawn=Pool(5))
    with socket.create_connection(server.address, timeout=5):
        while not handlers:
            gevent.sleep(0.001)
        server.stop(timeout=0.001)
        assert handlers[0].dead


def test_serve_forever_returns_after_stop():
    server = StreamServer(("127.0.0.1", 0), echo)
    serving = gevent.spawn(server.serve_forever)
    gevent.sleep(0.001)
    assert ask(server, b"x") == b"x"
    server.stop()
    serving.get(timeout=5)


def test_listening_socket_can_be_given():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = StreamServer(listener, echo)
        server.start()
        assert ask(server, b"x") == b"x"
        server.stop()


def test_address_in_use_is_an_error(serve):
    server = serve(echo)
    other = StreamServer(server.address, echo, reuse_addr=0)
    with pytest.raises(OSError):
        other.start()
    other.stop()


def test_nothing_is_accepted_when_a_greenlet_that_wakes_at_the_same_time_closes_the_server():
    handled = []

    def handle(sock, address):
        handled.append(server.closed)

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    gevent.sleep(0)
    with native.socket() as client:
        def connect_and_keep_the_thread():
            # The listener becomes readable, and the time of the other greenlet comes, before the loop looks again.
            client.connect(server.address)
            time.sleep(0.02)

        gevent.spawn(connect_and_keep_the_thread)
        gevent.sleep(0.01)
        server.close()
        gevent.sleep(0)
        gevent.sleep(0.001)
    assert handled == []


@pytest.mark.ours_only("the real one leaves the socket to the garbage collector")
@pytest.mark.parametrize(("port", "arguments"), [(99999, {}), (0, {"backlog": "many"})])
def test_listener_that_cannot_be_made_is_closed(port, arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises((OverflowError, TypeError)):
            StreamServer(("127.0.0.1", port), print, **arguments).start()
        gc.collect()
    assert not caught


def test_ten_thousand_idle_connections_leave_an_active_one_what_it_costs():
    """A message wakes who waits for it and nobody else, however many connections idle."""
    run_script("""
        import gevent
        from gevent import socket
        from gevent.server import StreamServer

        COUNT = room_for_pairs(10_000)
        woken = 0

        def handle(connection, address):
            global woken
            while data := connection.recv(100):
                woken += 1
                connection.sendall(data)

        server = StreamServer(("127.0.0.1", 0), handle, backlog=1024)
        server.start()
        active = socket.create_connection(server.address, timeout=10)
        idle = []
        for _ in range(COUNT):
            idle.append(socket.create_connection(server.address, timeout=10))
            gevent.sleep(0)
        for number in range(200):
            active.sendall(b"%d" % number)
            assert active.recv(100) == b"%d" % number
        assert woken == 200, woken
        # The idle ones are served as well, the last as the first.
        for connection in (idle[0], idle[COUNT // 2], idle[-1]):
            connection.sendall(b"here")
            assert connection.recv(100) == b"here"
        assert woken == 203, woken
        server.stop()
    """)


def test_lack_of_descriptors_is_reported_and_survived():
    run_script("""
        import errno, io, os, resource
        import tokenize   # which linecache imports when a traceback is printed: that takes a descriptor
        import gevent
        from gevent import socket
        from gevent.server import StreamServer

        def handle(connection, address):
            connection.sendall(b"served")

        hub = gevent.get_hub()
        hub.exception_stream = stream = io.StringIO()
        server = StreamServer(("127.0.0.1", 0), handle)
        server.start()
        gevent.sleep(0)
        clients = [socket.socket() for _ in range(3)]
        lowest = os.dup(1)
        os.close(lowest)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 50, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(1))
        except OSError as error:
            assert error.errno == errno.EMFILE
        for client in clients:
            client.connect(server.address)
        with gevent.Timeout(20):
            while os.strerror(errno.EMFILE) not in stream.getvalue():
                gevent.sleep(0.001)
        assert server.started
        # The report is whole, though nothing can be imported.
        assert " failed with OSError" in stream.getvalue(), stream.getvalue()
        # It asks again after a pause, not at once: the listener stays readable in each round of the loop.
        for _ in range(30):
            gevent.sleep(0.0001)
        assert stream.getvalue().count("Traceback") < 10, stream.getvalue()
        for descriptor in taken:
            os.close(descriptor)
        with gevent.Timeout(20):
            assert [client.recv(100) for client in clients] == [b"served"] * 3
        server.stop()
    """)


def test_slow_reader_does_not_stop_the_others(serve):
    """A handler whose client doesn't read waits alone, and goes on when the client reads."""
    size = 16 << 20   # more than both ends' buffers hold
    sent = Event()

    def handle(connection, address):
        if connection.recv(10) == b"much":
            connection.sendall(bytes(size))
            sent.set()
        else:
            connection.sendall(b"little")

    server = serve(handle)
    with socket.create_connection(server.address, timeout=10) as slow:
        slow.sendall(b"much")
        slow.recv(1)
        for _ in range(50):
            assert ask(server, b"any") == b"little"
        assert not sent.is_set()
        received = 1
        while data := slow.recv(1 << 20):
            received += len(data)
    assert received == size and sent.is_set()


class EchoByTls:
    """A TLS server that echoes a byte, whose certificate can be replaced while it runs."""

    def __init__(self, folder, make_certificate):
        self.folder, self.make_certificate = folder, make_certificate
        self.installed = self.install()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        # Its sessions can be used once the handshake is over.
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.server = StreamServer(("127.0.0.1", 0), lambda sock, address: sock.sendall(sock.recv(1)),
                                   certfile=str(folder / "certfile"), keyfile=str(folder / "keyfile"))
        self.server.start()

    def install(self):
        """Put a new certificate into the place of the old one, as renewing programs do; return its text."""
        made = self.make_certificate()
        for name, path in made.items():
            shutil.copyfile(path, self.folder / "new")
            os.replace(self.folder / "new", self.folder / name)
        return Path(made["certfile"]).read_text()

    def visit(self, session=None):
        """Return the certificate that is shown, by its text, the connection's session, and whether it was known."""
        with (
            socket.create_connection(self.server.address, timeout=30) as sock,
            self.context.wrap_socket(sock, session=session) as tls,
        ):
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)), tls.session, tls.session_reused


@pytest.fixture
def echo_by_tls(tmp_path, make_certificate):
    echo = EchoByTls(tmp_path, make_certificate)
    yield echo
    echo.server.stop()


def test_renewed_certificate_is_shown_to_the_next_connection(echo_by_tls):
    assert echo_by_tls.visit()[0] == echo_by_tls.installed
    renewed = echo_by_tls.install()
    assert echo_by_tls.visit()[0] == renewed


@pytest.mark.ours_only("the real server reads its files for each connection, and so knows no sessions")
def test_certificate_that_is_the_same_is_not_read_again(echo_by_tls):
    _, session, _ = echo_by_tls.visit()
    assert echo_by_tls.visit(session)[2]
    echo_by_tls.install()
    assert not echo_by_tls.visit(session)[2]


@pytest.mark.ours_only("the real gevent's accepting goes on without a pause where the report of an error fails")
def test_error_is_reported_without_its_source_where_that_cannot_be_read(errors, monkeypatch):
    """`linecache` imports modules to read it, which takes a descriptor where there may be none left."""
    def refuse(*args, **options):
        raise OSError(errno.EMFILE, "no descriptor to read the source")

    class Server(StreamServer):
        failures = [OSError(errno.EMFILE, "no descriptor to accept")]

        def do_read(self):
            if self.failures:
                raise self.failures.pop()
            return super().do_read()

    monkeypatch.setattr(linecache, "getlines", refuse)
    with Server(("127.0.0.1", 0), echo) as server:
        server.start()
        assert ask(server, b"x") == b"x"
    report = errors.getvalue()
    assert "no descriptor to accept" in report and ", in do_read" in report and "failed with OSError" in report
    assert "no descriptor to read" not in report


@pytest.mark.ours_only("gevent finds it out when somebody connects")
@pytest.mark.parametrize("spawn", ["nonsense", 2.5, b"raw"])
def test_what_spawns_nothing_is_refused(spawn):
    with pytest.raises(TypeError, match=f"^spawn must be .*{re.escape(repr(spawn))}"):
        StreamServer(("127.0.0.1", 0), lambda sock, address: None, spawn=spawn)


@pytest.mark.ours_only("gevent closes it at once")
@pytest.mark.parametrize("ends_by", ["handshake", "client", "time", "stop"])
def test_listener_has_its_name_for_handlers_whose_handshake_is_being_made(certificate, errors, ends_by):
    """gunicorn's handlers ask the socket that they gave to the server for its address, also while a worker ends."""
    def handle(sock, address):
        names.append(listener.getsockname())

    names = []
    listener = StreamServer.get_listener(("127.0.0.1", 0))
    name = listener.getsockname()
    server = StreamServer(listener, handle, spawn=Pool(5), **certificate)
    server.start()
    with socket.create_connection(name, timeout=30) as client:
        while not server._handshakes:
            gevent.sleep(0.001)
        server.close()
        assert server.closed and listener.fileno() >= 0
        if ends_by == "handshake":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(client) as tls:
                assert tls.recv(1) == b""
            assert names == [name]
        elif ends_by == "client":
            client.close()
        elif ends_by == "stop":
            server.stop(timeout=0)
        while listener.fileno() >= 0:
            gevent.sleep(0.001)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(name)
    server.stop(timeout=0)


@pytest.mark.parametrize("is_given", [False, True])
def test_closed_server_refuses_who_comes_while_a_handler_works(is_given):
    address = ("127.0.0.1", 0)
    listener = StreamServer.get_listener(address, family=socket.AF_INET) if is_given else None
    server = StreamServer(listener or address, echo, spawn=Pool(5))
    server.start()
    address = server.address
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
    server.stop(timeout=1)
