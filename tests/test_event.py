"""Event and AsyncResult."""
import threading

import gevent
import pytest
from gevent.event import AsyncResult, Event


@pytest.mark.parametrize("cls", [Event, AsyncResult])
def test_classes_take_no_arguments_but_may_be_called_with_empty_ones(cls):
    assert not cls(*[], **{}).ready()
    with pytest.raises(TypeError):
        cls(1)
    with pytest.raises(TypeError):
        cls(word=1)


def test_set_wakes_all_waiters_in_order():
    event, order = Event(), []

    def wait(number):
        assert event.wait() is True
        order.append(number)

    waiters = [gevent.spawn(wait, number) for number in range(10)]
    gevent.sleep(0)
    event.set()
    gevent.joinall(waiters)
    assert order == list(range(10))


def test_wait_on_a_set_event_returns_at_once():
    event = Event()
    event.set()
    assert event.is_set() and event.isSet() and event.ready()
    assert event.wait() is True


def test_cleared_event_blocks_again():
    event = Event()
    event.set()
    event.clear()
    assert not event.is_set()
    assert event.wait(0.001) is False


def test_waiters_are_woken_although_the_event_is_cleared_at_once():
    event = Event()
    waiter = gevent.spawn(event.wait)
    gevent.sleep(0)
    event.set()
    event.clear()
    assert waiter.get(timeout=1) is True
    assert not event.is_set()


def test_links_of_an_event():
    event, order = Event(), []
    event.rawlink(order.append)
    other = []
    event.rawlink(other.append)
    event.unlink(other.append)
    event.set()
    gevent.sleep(0)
    assert order == [event] and other == []


def test_event_set_by_another_thread_wakes_a_greenlet():
    event = Event()
    # A timer keeps the hub from concluding that nobody can set the event.
    with gevent.Timeout(5):
        thread = threading.Thread(target=event.set)
        thread.start()
        assert event.wait() is True
    thread.join()


@pytest.mark.parametrize("value", [1, None, (), [1], ValueError("as value")])
def test_async_result_hands_over_its_value(value):
    result = AsyncResult()
    waiters = [gevent.spawn(result.get) for _ in range(3)]
    gevent.sleep(0)
    result.set(value)
    assert [waiter.get() for waiter in waiters] == [value] * 3
    assert result.get() is value and result.value is value
    assert result.ready() and result.successful()


def test_async_result_raises_its_exception_each_time():
    result, exception = AsyncResult(), KeyError("set")
    result.set_exception(exception)
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            result.get()
        assert caught.value is exception
    assert result.ready() and not result.successful() and result.exception is exception


def test_traceback_does_not_grow_on_repeated_get():
    def depth(traceback):
        return 0 if traceback is None else 1 + depth(traceback.tb_next)

    result = AsyncResult()
    result.set_exception(KeyError("set"))
    depths = []
    for _ in range(5):
        with pytest.raises(KeyError) as caught:
            result.get()
        depths.append(depth(caught.value.__traceback__))
    assert len(set(depths[1:])) == 1


def test_set_exception_with_exc_info_keeps_the_traceback():
    import sys

    result = AsyncResult()
    try:
        raise KeyError("origin")
    except KeyError as exception:
        result.set_exception(exception, exc_info=sys.exc_info())
    with pytest.raises(KeyError):
        result.get()
    assert result.exc_info[0] is KeyError


def test_get_times_out_and_wait_returns_none():
    result = AsyncResult()
    with pytest.raises(gevent.Timeout):
        result.get(timeout=0.001)
    with pytest.raises(gevent.Timeout):
        result.get_nowait()
    assert result.wait(timeout=0.001) is None


def test_wait_does_not_raise():
    result = AsyncResult()
    result.set_exception(KeyError())
    assert result.wait() is None


def test_async_result_as_a_future():
    result = AsyncResult()
    assert not result.done() and not result.cancelled()
    result.set_result(5)
    assert result.done() and result.result() == 5
    assert result.cancel() is False


def test_async_result_takes_the_outcome_of_a_greenlet(errors):
    good, bad = AsyncResult(), AsyncResult()
    gevent.spawn(lambda: 5).link(good)
    gevent.spawn(lambda: 1 / 0).link(bad)
    assert good.get(timeout=1) == 5
    with pytest.raises(ZeroDivisionError):
        bad.get(timeout=1)


def test_callbacks_added_late_are_called():
    result, order = AsyncResult(), []
    result.set(1)
    result.rawlink(order.append)
    gevent.sleep(0)
    assert order == [result]


def test_second_set_replaces_the_value():
    result = AsyncResult()
    result.set(1)
    result.set(2)
    assert result.get() == 2


def test_who_comes_after_a_set_goes_on_after_those_whom_it_woke():
    event, order = Event(), []

    def wait(name):
        event.wait()
        order.append(name)

    waiting = gevent.spawn(wait, "first")
    gevent.sleep(0)
    event.set()
    wait("second")
    assert order == ["first", "second"]
    waiting.join()
    wait("third")
    assert order == ["first", "second", "third"]
