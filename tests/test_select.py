"""Waiting for several descriptors: select, poll and selectors."""
import errno
import fcntl
import os
import resource

import gevent
import pytest
from gevent import select, selectors, socket


@pytest.fixture
def pair():
    first, second = socket.socketpair()
    yield first, second
    first.close()
    second.close()


def test_select_returns_the_object_that_is_ready(pair):
    first, second = pair
    gevent.spawn(second.sendall, b"x")
    assert select.select([first], [], [], 5) == ([first], [], [])


def test_select_returns_writable_at_once(pair):
    first, second = pair
    assert select.select([first], [second], []) == ([], [second], [])


def test_select_times_out_with_nothing(pair):
    assert select.select(pair, [], [], 0.01) == ([], [], [])


def test_select_of_one_among_many(pair):
    others = [socket.socketpair() for _ in range(5)]
    first, second = pair
    gevent.spawn(second.sendall, b"x")
    readers = [a for a, _ in others] + [first]
    assert select.select(readers, [], [], 5)[0] == [first]
    for sockets in others:
        for sock in sockets:
            sock.close()


def test_select_of_nothing_sleeps():
    other = gevent.spawn(lambda: "ran")
    assert select.select([], [], [], 0.01) == ([], [], [])
    assert other.value == "ran"


def test_select_takes_any_iterable(pair):
    assert select.select(iter([pair[0]]), {pair[1]: None}, ())[1] == [pair[1]]


def test_select_refuses_negative_time(pair):
    with pytest.raises(ValueError):
        select.select(pair, [], [], -1)


@pytest.fixture
def large():
    """A descriptor that the sets of select(2) have no room for, a copy of a pipe's reading end; and its other end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("the system's limit of open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    reading, writing = os.pipe()
    copy = fcntl.fcntl(reading, fcntl.F_DUPFD, 1024)
    yield copy, writing
    for fd in (reading, writing, copy):
        try:
            os.close(fd)
        except OSError:
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.ours_only("the real one raises ValueError for descriptors of 1024 and above")
@pytest.mark.parametrize("timeout", [0, 5, None])
def test_select_takes_descriptors_beyond_its_sets(large, timeout):
    reading, writing = large
    assert select.select([reading], [], [], 0) == ([], [], [])
    os.write(writing, b"x")
    assert select.select([reading], [writing], [], timeout) == ([reading], [writing], [])


@pytest.mark.ours_only("the real one raises ValueError for descriptors of 1024 and above")
@pytest.mark.parametrize("timeout", [0, 5, None])
def test_select_on_a_closed_descriptor_beyond_its_sets(large, timeout):
    os.close(large[0])
    with pytest.raises(OSError, match="Bad file descriptor") as info:
        select.select([large[0]], [], [], timeout)
    assert info.value.errno == errno.EBADF


def test_select_of_a_closed_descriptor_is_an_error():
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError) as caught:
        select.select([read], [], [])
    assert caught.value.errno == errno.EBADF


@pytest.mark.ours_only("the real gevent tells so when the time is over")
@pytest.mark.parametrize("count", (1, 2))
def test_select_returns_what_another_greenlet_closes_meanwhile(pair, count):
    readers = list(pair[:count])
    gevent.spawn(pair[0].close)
    assert select.select(readers, [], [])[0][:1] == [pair[0]]


@pytest.mark.ours_only("the real gevent does not wait for exceptional conditions")
def test_select_waits_for_urgent_data(pair):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            gevent.spawn(client.send, b"!", socket.MSG_OOB)
            assert select.select([pair[0]], [], [pair[0], server], 30) == ([], [], [server])


def test_select_lets_others_run_while_ready(pair):
    ran = []
    gevent.spawn(ran.append, 1)
    while not ran:
        select.select([], [pair[0]], [], 0)


def test_poll_returns_descriptor_and_events(pair):
    first, second = pair
    poller = select.poll()
    poller.register(first, select.POLLIN)
    assert poller.poll(10) == []
    gevent.spawn(second.sendall, b"x")
    [(descriptor, events)] = poller.poll()
    assert descriptor == first.fileno() and events & select.POLLIN
    poller.unregister(first)
    assert poller.poll(0) == []


def test_poll_of_a_closed_descriptor_tells_so():
    read, write = os.pipe()
    poller = select.poll()
    poller.register(read)
    os.close(read)
    os.close(write)
    assert poller.poll(1000) == [(read, select.POLLNVAL)]


@pytest.mark.ours_only("the real gevent tells so when the time is over")
def test_poll_tells_what_another_greenlet_closes_meanwhile(pair):
    poller = select.poll()
    descriptor = pair[0].fileno()
    for sock in pair:
        poller.register(sock, select.POLLIN)
    gevent.spawn(pair[0].close)
    assert descriptor in [ready for ready, _ in poller.poll()]


def test_unregistering_what_is_not_registered_is_a_key_error(pair):
    with pytest.raises(KeyError):
        select.poll().unregister(pair[0])


def test_selector_returns_key_and_events(pair):
    first, second = pair
    with selectors.DefaultSelector() as selector:
        key = selector.register(first, selectors.EVENT_READ, "data")
        assert selector.select(0) == []
        gevent.spawn(second.sendall, b"x")
        assert selector.select(5) == [(key, selectors.EVENT_READ)]
        selector.modify(first, selectors.EVENT_WRITE)
        assert selector.select(5)[0][1] == selectors.EVENT_WRITE
        selector.unregister(first)
        assert not selector.get_map()


def test_selector_refuses_what_is_closed(pair):
    descriptor = pair[0].detach()
    os.close(descriptor)
    # The selector's own descriptor may get the number.
    with selectors.GeventSelector() as selector, pytest.raises(ValueError, match="Invalid file descriptor"):
        selector.register(descriptor, selectors.EVENT_READ)


def test_selector_lets_others_run(pair):
    with selectors.DefaultSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        other = gevent.spawn(lambda: "ran")
        selector.select(0.01)
        assert other.value == "ran"


@pytest.mark.parametrize("thing", (None, "x", object()), ids=repr)
def test_what_has_no_descriptor_is_refused(thing):
    for arguments in (([thing], [], []), ([], [thing], []), ([], [], [thing])):
        with pytest.raises(TypeError):
            select.select(*arguments, 0)
    # CPython's raises TypeError: ours is both.
    with pytest.raises(ValueError) as caught:
        select.poll().register(thing)
    assert repr(thing) in str(caught.value)


@pytest.mark.ours_only("the real gevent waits for ever, or fails in C")
@pytest.mark.parametrize("timeout", (1 << 31, 1 << 64, float("inf")))
def test_poll_refuses_times_that_are_no_c_int(timeout):
    with pytest.raises(OverflowError, match="too large"):
        select.poll().poll(timeout)
