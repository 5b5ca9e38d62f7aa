"""Cooperative sockets, select, and DNS of local names."""
import errno
import socket as stdlib_socket
import ssl

import gevent
import gevent.exceptions
import pytest
from gevent import select, socket
from gevent.event import Event


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def listener():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


@pytest.mark.ours_only("the real class is no subclass of the standard library's")
def test_class_is_a_socket_of_the_standard_library(pair):
    a, _ = pair
    assert isinstance(a, stdlib_socket.socket)
    assert isinstance(a, stdlib_socket.SocketType)


def test_recv_waits_and_lets_others_run(pair):
    a, b = pair
    order = []

    def receive():
        order.append("waits")
        order.append(a.recv(10))

    receiver = gevent.spawn(receive)
    gevent.sleep(0)
    order.append("other")
    b.sendall(b"data")
    receiver.join()
    assert order == ["waits", "other", b"data"]


def test_end_of_stream_is_empty(pair):
    a, b = pair
    b.shutdown(socket.SHUT_WR)
    assert a.recv(1) == b""


def test_large_sendall_and_recv_run_side_by_side(pair):
    a, b = pair
    data = bytes(range(256)) * 20000
    sender = gevent.spawn(lambda: (a.sendall(data), a.shutdown(socket.SHUT_WR)))
    received = b"".join(iter(lambda: b.recv(65536), b""))
    sender.get()
    assert received == data


def test_recv_into_recvmsg_and_sendmsg(pair):
    a, b = pair
    assert a.sendmsg([b"ab", b"cd"]) == 4
    buffer = bytearray(2)
    assert b.recv_into(buffer) == 2 and buffer == b"ab"
    assert b.recvmsg(10)[0] == b"cd"
    waiter = gevent.spawn(b.recvmsg_into, [buffer])
    gevent.sleep(0)
    a.sendall(b"ef")
    assert waiter.get(timeout=1)[0] == 2 and buffer == b"ef"


@pytest.mark.parametrize("call", ["recv", "recv_into", "recvfrom", "accept"])
def test_timeout_of_the_socket_raises_timeout_error(call):
    with socket.socket(type=socket.SOCK_STREAM if call == "accept" else socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        if call == "accept":
            sock.listen()
        sock.settimeout(0.001)
        argument = () if call == "accept" else (bytearray(1),) if call == "recv_into" else (1,)
        with pytest.raises(TimeoutError, match="timed out"):
            getattr(sock, call)(*argument)
        assert sock.gettimeout() == 0.001


def test_non_blocking_socket_raises_blocking_io_error(pair):
    a, _ = pair
    a.setblocking(False)
    assert a.gettimeout() == 0.0
    with pytest.raises(BlockingIOError):
        a.recv(1)


def test_sendall_times_out_as_a_whole(pair):
    a, _ = pair
    a.settimeout(0.01)
    with pytest.raises(TimeoutError):
        a.sendall(b"x" * (1 << 24))


def test_descriptor_is_non_blocking_in_the_kernel(pair):
    import os

    assert os.get_blocking(pair[0].fileno()) is False
    assert pair[0].gettimeout() is None


def test_connect_and_accept(listener):
    accepted = gevent.spawn(listener.accept)
    with socket.create_connection(listener.getsockname(), timeout=5) as client:
        connection, address = accepted.get(timeout=5)
        with connection:
            assert address == client.getsockname()
            assert isinstance(connection, socket.socket)
            connection.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_refused_connection():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
        sock.connect(address)
    with socket.socket() as sock:
        assert sock.connect_ex(address) == errno.ECONNREFUSED


def test_fifty_clients_are_served_at_the_same_time(listener):
    everyone_connected = Event()
    connected = []

    def serve(connection):
        with connection:
            connected.append(connection)
            if len(connected) == 50:
                everyone_connected.set()
            assert everyone_connected.wait(5)
            connection.sendall(connection.recv(10))

    def accept():
        for _ in range(50):
            gevent.spawn(serve, listener.accept()[0])

    def request(number):
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"%d" % number)
            return int(client.recv(10))

    acceptor = gevent.spawn(accept)
    jobs = [gevent.spawn(request, number) for number in range(50)]
    assert [job.get(timeout=10) for job in jobs] == list(range(50))
    acceptor.get()


def test_close_wakes_the_waiter():
    a, b = socket.socketpair()
    with b:
        waiter = gevent.spawn(a.recv, 1)
        gevent.sleep(0)
        a.close()
        with pytest.raises(OSError) as caught:
            waiter.get(timeout=1)
        assert caught.value.errno == errno.EBADF


def test_use_after_close_is_ebadf():
    a, b = socket.socketpair()
    b.close()
    a.close()
    with pytest.raises(OSError) as caught:
        a.recv(1)
    assert caught.value.errno == errno.EBADF
    assert a.fileno() == -1


def test_reused_descriptor_does_not_see_old_readiness():
    for _ in range(20):
        a, b = socket.socketpair()
        b.sendall(b"x")
        assert a.recv(1) == b"x"
        b.sendall(b"left unread")
        a.close()
        b.close()
        c, d = socket.socketpair()
        with c, d:
            c.settimeout(0.001)
            with pytest.raises(TimeoutError):
                c.recv(1)


def test_duplicate_stays_usable_after_the_original_is_closed():
    a, b = socket.socketpair()
    with b, a.dup() as copy:
        a.close()
        waiter = gevent.spawn(copy.recv, 1)
        gevent.sleep(0)
        b.sendall(b"x")
        assert waiter.get(timeout=1) == b"x"


def test_two_readers_of_one_socket_are_refused(pair):
    a, b = pair
    first = gevent.spawn(a.recv, 1)
    gevent.sleep(0)
    with pytest.raises(gevent.exceptions.ConcurrentObjectUseError):
        a.recv(1)
    b.sendall(b"x")
    assert first.get(timeout=1) == b"x"


def test_one_reads_while_another_writes(pair):
    a, b = pair
    reader = gevent.spawn(a.recv, 10)
    writer = gevent.spawn(a.sendall, b"x" * (1 << 20))
    gevent.sleep(0)
    b.sendall(b"y")
    assert reader.get(timeout=1) == b"y"
    received = 0
    while received < 1 << 20:
        received += len(b.recv(1 << 16))
    writer.get(timeout=1)


def test_makefile_reads_lines(pair):
    a, b = pair
    with a.makefile("rwb") as file:
        writer = gevent.spawn_later(0.001, b.sendall, b"first\nsecond\n")
        assert file.readline() == b"first\n"
        assert file.readline() == b"second\n"
        file.write(b"answer\n")
        file.flush()
        assert b.recv(10) == b"answer\n"
        writer.join()


def test_socket_is_closed_only_after_its_file():
    a, b = socket.socketpair()
    with b:
        file = a.makefile("rb")
        a.close()
        b.sendall(b"x")
        b.shutdown(socket.SHUT_WR)
        assert file.read() == b"x"
        file.close()


def test_detach_gives_the_descriptor_away():
    a, b = socket.socketpair()
    with b:
        descriptor = a.detach()
        assert a.fileno() == -1
        with socket.socket(fileno=descriptor) as other:
            other.sendall(b"x")
            assert b.recv(1) == b"x"


def test_datagrams(pair):
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        waiter = gevent.spawn(a.recvfrom, 10)
        gevent.sleep(0)
        assert b.sendto(b"x", a.getsockname()) == 1
        assert waiter.get(timeout=1) == (b"x", b.getsockname())


def test_names_of_this_machine():
    assert socket.gethostbyname("localhost") == "127.0.0.1"
    addresses = socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert addresses[0][4] == ("127.0.0.1", 80)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("256.256.256.256", 80, flags=socket.AI_NUMERICHOST)


def test_select_returns_what_is_ready(pair):
    a, b = pair
    assert select.select([a], [], [], 0) == ([], [], [])
    assert select.select([a], [b], [], 0) == ([], [b], [])
    assert select.select([a], [], [], 0.001) == ([], [], [])
    b.sendall(b"x")
    assert select.select([a.fileno()], [], [], 1) == ([a.fileno()], [], [])
    with pytest.raises(ValueError):
        select.select([-1], [], [], 0)


def test_poll_tells_events_and_forgets(pair):
    a, b = pair
    poll = select.poll()
    poll.register(a, select.POLLIN)
    assert poll.poll(1) == []
    b.sendall(b"x")
    assert poll.poll(1000) == [(a.fileno(), select.POLLIN)]
    poll.unregister(a)
    with pytest.raises(KeyError):
        poll.unregister(a)


def test_wait_read_and_wait_write_with_timeout(pair):
    a, b = pair
    with pytest.raises(TimeoutError):
        socket.wait_read(a.fileno(), timeout=0.001)
    socket.wait_write(a.fileno(), timeout=1)
    b.sendall(b"x")
    socket.wait_read(a.fileno(), timeout=1)


def test_ssl_class_is_offered():
    from gevent import ssl as gevent_ssl

    assert issubclass(gevent_ssl.SSLContext, ssl.SSLContext)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connect_refuses_a_port_that_is_too_large(host):
    with socket.socket() as sock:
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            sock.connect((host, 65536))
        sock.setblocking(False)
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            sock.connect_ex((host, 65536))


def test_wait_for_a_socket_without_ref_keeps_no_loop_alive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ours.ref is True
        ours.ref = False
        assert ours.ref is False
        with pytest.raises(gevent.exceptions.LoopExit):
            ours.recv(1)
        # It is woken as any other, and counts again once it is referenced.
        reader = gevent.spawn(ours.recv, 1)
        gevent.sleep(0)
        theirs.sendall(b"x")
        assert reader.get(timeout=10) == b"x"
        ours.ref = True
        gevent.spawn_later(0.001, theirs.sendall, b"y")
        assert ours.recv(1) == b"y"


def test_loop_ends_when_only_sockets_without_ref_are_waited_for():
    pairs = [socket.socketpair() for _ in range(2)]
    readers = []
    for ours, _ in pairs:
        ours.ref = False
        readers.append(gevent.spawn(ours.recv, 1))
    try:
        gevent.sleep(0)
        assert gevent.wait(timeout=10) is True
        assert not any(reader.ready() for reader in readers)
    finally:
        gevent.killall(readers)
        for pair in pairs:
            for end in pair:
                end.close()


def test_arguments_can_be_given_by_the_names_that_gevent_uses():
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):
            sock.connect(address="/nonexistent/socket")
        assert sock.connect_ex(address="/nonexistent/socket") == errno.ENOENT
        sock.settimeout(howlong=2.5)
        assert sock.gettimeout() == 2.5
        sock.setblocking(flag=False)
        assert sock.gettimeout() == 0
    a, b = socket.socketpair()
    buffer = bytearray(4)
    with a, b:
        assert b.send(data=b"12", flags=0, timeout=1) == 2
        b.sendall(data=b"34", flags=0)
        assert a.recvmsg_into(buffers=[buffer])[0] == 4
        assert buffer == b"1234"
        with pytest.raises(TypeError):
            a.recvmsg_into([buffer], buffers=[buffer])
        b.shutdown(how=socket.SHUT_WR)
        assert a.recv(1) == b""
