"""TLS sockets: what a read waits for, and that kills and time-outs leave a connection usable."""

import gevent
import pytest
from gevent import socket, ssl


@pytest.fixture(scope="module")
def contexts(certificate):
    """Return the contexts of a server and of a client that trusts anyone."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(**certificate)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


def connected(contexts):
    """Return the two ends of a TLS connection: the server's and the client's."""
    server, client = contexts
    left, right = socket.socketpair()
    accepting = gevent.spawn(server.wrap_socket, left, server_side=True)
    connecting = gevent.spawn(client.wrap_socket, right)
    with gevent.Timeout(10):
        return accepting.get(), connecting.get()


@pytest.fixture
def pair(contexts):
    ends = connected(contexts)
    with ends[0], ends[1]:
        yield ends


def finishes(function, *arguments):
    with gevent.Timeout(10):
        return gevent.spawn(function, *arguments).get()


def test_recv_gives_what_is_left_of_a_record_without_waiting(pair):
    here, there = pair
    there.sendall(b"0123456789")
    assert finishes(here.recv, 3) == b"012"
    assert here.pending() == 7
    assert finishes(here.recv, 100) == b"3456789"


def test_recv_gives_records_that_came_together(pair):
    here, there = pair
    for word in (b"one", b"two", b"three"):
        there.sendall(word)
    assert [finishes(here.recv, 100) for _ in range(3)] == [b"one", b"two", b"three"]


def test_recv_into_fills_the_buffer(pair):
    here, there = pair
    there.sendall(b"0123456789")
    buffer = bytearray(4)
    assert finishes(here.recv_into, buffer) == 4
    assert buffer == b"0123"
    assert finishes(here.recv_into, buffer, 2) == 2
    assert finishes(here.recv, 0) == b""
    assert finishes(here.recv, 10) == b"6789"


def test_recv_tells_the_end_again_and_again_while_the_peer_stays_connected(pair):
    here, there = pair
    here.settimeout(5)
    ending = gevent.spawn(there.unwrap)         # says that it is done, and waits for the same
    assert finishes(here.recv, 10) == b""
    assert finishes(here.recv, 10) == b""
    assert finishes(here.recv_into, bytearray(3)) == 0
    ending.kill()


def test_recv_of_a_nonblocking_socket_raises_want_read(pair):
    here, there = pair
    here.setblocking(False)
    with pytest.raises(ssl.SSLWantReadError):
        here.recv(10)
    there.sendall(b"x")
    with gevent.Timeout(10):
        while True:
            try:
                assert here.recv(10) == b"x"
                break
            except ssl.SSLWantReadError:
                gevent.sleep(0)


def test_recv_raises_timeout_when_the_peer_is_silent(pair):
    here = pair[0]
    here.settimeout(0.005)
    with pytest.raises(TimeoutError, match="read operation timed out"):
        here.recv(10)


@pytest.mark.parametrize("data", [b"x" * 3_000_000, bytearray(b"y" * 300_000), memoryview(b"z" * 100_000), b"", b"1"])
def test_sendall_sends_all_kinds_of_buffers(pair, data):
    here, there = pair
    sending = gevent.spawn(there.sendall, data)
    received = bytearray()
    with gevent.Timeout(20):
        while len(received) < len(data):
            received += here.recv(1 << 16)
    assert received == bytes(data)
    sending.get(timeout=10)


def test_sendall_refuses_flags(pair):
    with pytest.raises(ValueError, match="flags"):
        pair[0].sendall(b"x", 1)


@pytest.mark.parametrize("end", ["kill", "timeout"])
def test_ended_recv_loses_nothing(pair, end):
    here, there = pair

    def receive():
        with gevent.Timeout(0.005 if end == "timeout" else None, False):
            return here.recv(10)

    receiving = gevent.spawn(receive)
    gevent.sleep(0)
    if end == "kill":
        receiving.kill()
    receiving.join()
    there.sendall(b"whole")
    assert finishes(here.recv, 10) == b"whole"


def test_killed_handshake_leaves_the_socket_to_its_owner(contexts):
    left, right = socket.socketpair()
    with left, right:
        wrapped = contexts[0].wrap_socket(left, server_side=True, do_handshake_on_connect=False)
        with wrapped:
            shaking = gevent.spawn(wrapped.do_handshake)
            gevent.sleep(0)
            shaking.kill()
            assert isinstance(shaking.value, gevent.GreenletExit)
            client = gevent.spawn(contexts[1].wrap_socket, right)
            finishes(wrapped.do_handshake)
            with client.get(timeout=10) as there:
                wrapped.sendall(b"hello")
                assert finishes(there.recv, 10) == b"hello"


def test_unwrap_takes_a_close_without_an_answer_for_the_end(pair):
    here, there = pair
    unwrapping = gevent.spawn(here.unwrap)
    assert finishes(there.recv, 10) == b""     # says that it is done; the peer closes without saying the same
    there.close()
    with unwrapping.get(timeout=10) as plain:
        assert plain.recv(10) == b""
    with pytest.raises(ValueError, match="No SSL wrapper"):
        here.unwrap()
