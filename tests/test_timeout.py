"""gevent.Timeout and with_timeout."""
import threading

import gevent
import gevent.event
import gevent.lock
import gevent.queue
import gevent.socket
import pytest
from gevent import Timeout


def test_raises_itself_in_the_greenlet_that_started_it():
    with pytest.raises(Timeout) as caught:
        with Timeout(0.001) as timeout:
            gevent.sleep(1000)
    assert caught.value is timeout
    assert not timeout.pending


def test_is_a_base_exception():
    assert issubclass(Timeout, BaseException) and not issubclass(Timeout, Exception)


@pytest.mark.parametrize("exception", [KeyError, KeyError("instance")])
def test_raises_the_given_exception(exception):
    with pytest.raises(KeyError), Timeout(0.001, exception):
        gevent.sleep(1000)


def test_false_makes_the_with_block_silent():
    reached = []
    with Timeout(0.001, False):
        gevent.sleep(1000)
        reached.append(1)
    assert reached == []


@pytest.mark.parametrize("seconds", [None])
def test_none_never_expires(seconds):
    with Timeout(seconds) as timeout:
        gevent.sleep(0.002)
        assert not timeout.pending


def test_zero_expires_at_the_next_switch():
    with pytest.raises(Timeout), Timeout(0):
        gevent.sleep(1000)


def test_finished_block_cancels_it():
    with Timeout(0.001):
        pass
    gevent.sleep(0.01)


def test_inner_timeout_passes_an_outer_handler_by_identity():
    with Timeout(1000) as outer:
        with pytest.raises(Timeout) as caught, Timeout(0.001) as inner:
            gevent.sleep(1000)
    assert caught.value is inner is not outer


def test_outer_timeout_ends_the_inner_block():
    with pytest.raises(Timeout) as caught:
        with Timeout(0.001) as outer:
            with Timeout(1000, False) as inner:
                gevent.sleep(1000)
    assert caught.value is outer
    assert not inner.pending


def test_start_cancel_close_and_pending():
    timeout = Timeout(1000)
    assert not timeout.pending
    timeout.start()
    assert timeout.pending
    timeout.cancel()
    assert not timeout.pending
    timeout.start()
    timeout.close()
    assert not timeout.pending


def test_start_twice_is_an_error():
    timeout = Timeout.start_new(1000)
    with pytest.raises(AssertionError):
        timeout.start()
    timeout.close()


def test_start_new_takes_a_number_none_or_a_timeout():
    first = Timeout.start_new(1000)
    assert first.pending and first.seconds == 1000
    assert Timeout.start_new(first) is first
    first.close()
    second = Timeout(1000)
    assert Timeout.start_new(second) is second and second.pending
    second.close()
    assert not Timeout.start_new(None).pending


def test_text_names_the_seconds():
    assert str(Timeout(5)) == "5 seconds"
    assert str(Timeout(1)) == "1 second"
    assert str(Timeout(None)) == ""
    assert str(Timeout(5, False)) == "5 seconds (silent)"
    assert "seconds=5" in repr(Timeout(5))


def test_reaches_the_greenlet_that_started_it_not_the_running_one():
    def run():
        with pytest.raises(Timeout), Timeout(0.002):
            gevent.sleep(1000)
        return "timed out"

    g = gevent.spawn(run)
    gevent.sleep(0.01)
    assert g.get(timeout=1) == "timed out"


def test_subclass_is_raised_as_itself():
    class MyTimeout(Timeout):
        pass

    with pytest.raises(MyTimeout), MyTimeout(0.001):
        gevent.sleep(1000)


def test_with_timeout_returns_the_result_or_the_given_value():
    assert gevent.with_timeout(1, lambda value: value, 5) == 5
    assert gevent.with_timeout(0.001, gevent.sleep, 1000, timeout_value="late") == "late"
    with pytest.raises(Timeout):
        gevent.with_timeout(0.001, gevent.sleep, 1000)


def test_with_timeout_lets_the_timeout_of_the_function_through():
    inner = Timeout(0.001)

    def run():
        inner.start()
        gevent.sleep(1000)

    with pytest.raises(Timeout) as caught:
        gevent.with_timeout(1000, run, timeout_value="outer")
    assert caught.value is inner


def test_many_timeouts_expire_each_in_its_own_greenlet():
    def run(number):
        with pytest.raises(Timeout) as caught, Timeout(0.001 * (number % 5 + 1)) as timeout:
            gevent.sleep(1000)
        return caught.value is timeout

    jobs = [gevent.spawn(run, number) for number in range(200)]
    assert all(job.get(timeout=5) for job in jobs)


def test_timeout_inside_except_and_finally_blocks():
    order = []
    try:
        try:
            raise KeyError
        finally:
            with Timeout(0.001, False):
                gevent.sleep(1000)
            order.append("finally")
    except KeyError:
        order.append("except")
    assert order == ["finally", "except"]


def test_timeout_outlives_the_thread_that_started_it():
    started = []

    def work():
        started.append(Timeout.start_new(1000))

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    for timeout in started:
        timeout.cancel()
        assert not timeout.pending
    gevent.sleep(0)


def expired_waits(reader):
    """Calls that wait for what never comes, with the limit as an argument; and what they return."""
    full = gevent.queue.Queue(1)
    full.put("unfinished")
    held = gevent.lock.RLock()
    gevent.spawn(held.acquire).join()
    taken = gevent.lock.Semaphore(0)
    sleeper = gevent.spawn(gevent.sleep, 1000)
    channel = gevent.queue.Channel()
    raises = object()
    return sleeper, raises, [
        (gevent.event.Event().wait, False),
        (gevent.event.AsyncResult().wait, None),
        (lambda limit: gevent.event.AsyncResult().get(timeout=limit), raises),
        (lambda limit: gevent.queue.Queue().get(timeout=limit), raises),
        (lambda limit: gevent.queue.Queue().peek(timeout=limit), raises),
        (lambda limit: full.put(2, timeout=limit), raises),
        (lambda limit: full.join(timeout=limit), False),
        (lambda limit: channel.get(timeout=limit), raises),
        (lambda limit: channel.put(1, timeout=limit), raises),
        (lambda limit: taken.acquire(timeout=limit), False),
        (lambda limit: taken.wait(timeout=limit), 0),
        (lambda limit: held.acquire(timeout=limit), False),
        (sleeper.join, None),
        (lambda limit: sleeper.get(timeout=limit), raises),
        (lambda limit: gevent.socket.wait_read(reader.fileno(), limit), raises),
        (lambda limit: gevent.with_timeout(limit, gevent.sleep, 1000), raises),
    ]


def test_a_timeout_object_is_taken_where_seconds_are():
    reader, writer = gevent.socket.socketpair()
    sleeper, raises, waits = expired_waits(reader)
    for wait, expected in waits:
        limit = Timeout(0.001)
        if expected is raises:
            with pytest.raises(Timeout) as caught:
                wait(limit)
            assert caught.value is limit
        else:
            assert wait(limit) == expected
        assert not limit.pending
    sleeper.kill()
    reader.close()
    writer.close()


@pytest.mark.ours_only("gevent reports it in the hub, and the greenlet waits on")
@pytest.mark.parametrize("wrong", [object(), int, 17], ids=["object", "class", "number"])
def test_what_cannot_be_raised_makes_a_type_error_in_the_greenlet(wrong):
    timeout = Timeout(0.001, wrong)
    timeout.start()
    with pytest.raises(TypeError, match="exceptions must"):
        gevent.sleep(1000)
    timeout.close()


@pytest.mark.parametrize("end", ["close", "block", "wait"])
def test_closed_timeout_is_not_started_again(end):
    timeout = Timeout(1000)
    if end == "block":
        with timeout:
            pass
    elif end == "wait":
        event = gevent.event.Event()
        gevent.spawn(event.set)
        event.wait(timeout=timeout)
    else:
        timeout.start()
        timeout.close()
    for start in (timeout.start, timeout.__enter__, lambda: Timeout.start_new(timeout)):
        with pytest.raises(AssertionError):
            start()
    assert not timeout.pending


def test_cancelled_timeout_and_one_without_a_limit_are_started_again():
    timeout = Timeout(1000)
    for _ in range(2):
        timeout.start()
        assert timeout.pending
        timeout.cancel()
    timeout.close()
    never = Timeout(None)
    never.close()
    never.start()
    assert not never.pending


def test_exit_takes_its_arguments_by_the_names_that_gevent_uses():
    timeout = gevent.Timeout.start_new(1000)
    assert not timeout.__exit__(typ=None, value=None, tb=None)
    assert not timeout.pending
