"""Semaphore, BoundedSemaphore, DummySemaphore and RLock."""
import threading

import gevent
import pytest
from gevent.lock import BoundedSemaphore, DummySemaphore, RLock, Semaphore


@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_at_most_value_greenlets_hold_it(kind):
    semaphore = kind(2)
    holding, most = [], []

    def run(number):
        with semaphore:
            holding.append(number)
            most.append(len(holding))
            gevent.sleep(0)
            holding.remove(number)

    gevent.joinall([gevent.spawn(run, number) for number in range(10)])
    assert max(most) == 2
    assert semaphore.counter == 2


def test_acquirers_are_served_in_order():
    semaphore, order = Semaphore(0), []

    def run(number):
        semaphore.acquire()
        order.append(number)

    waiters = [gevent.spawn(run, number) for number in range(10)]
    gevent.sleep(0)
    for _ in range(10):
        semaphore.release()
    gevent.joinall(waiters)
    assert order == list(range(10))


def test_acquire_without_block_and_with_timeout():
    semaphore = Semaphore(1)
    assert semaphore.acquire(blocking=False) is True
    assert semaphore.acquire(blocking=False) is False
    assert semaphore.acquire(timeout=0.001) is False
    assert semaphore.locked()
    semaphore.release()
    assert not semaphore.locked()


def test_negative_value_is_refused():
    with pytest.raises(ValueError):
        Semaphore(-1)


def test_wait_does_not_take_the_permit():
    semaphore = Semaphore(1)
    assert semaphore.wait() == 1
    assert semaphore.counter == 1


def test_bounded_semaphore_refuses_a_release_too_many():
    semaphore = BoundedSemaphore(1)
    with pytest.raises(ValueError):
        semaphore.release()
    semaphore.acquire()
    semaphore.release()


def test_links_of_a_semaphore():
    semaphore, order = Semaphore(0), []
    semaphore.rawlink(order.append)
    semaphore.release()
    gevent.sleep(0)
    gevent.sleep(0)
    assert order == [semaphore]


def test_dummy_semaphore_never_blocks():
    semaphore = DummySemaphore()
    with semaphore:
        assert semaphore.acquire() is True
    semaphore.release()
    assert not semaphore.locked()


def test_rlock_is_reentrant_for_its_greenlet_only():
    lock = RLock()
    with lock, lock:
        other = gevent.spawn(lock.acquire, blocking=False)
        assert not other.get()
    assert gevent.spawn(lock.acquire, blocking=False).get()


def test_rlock_release_by_a_stranger_is_an_error():
    lock = RLock()
    with pytest.raises(RuntimeError):
        lock.release()
    gevent.spawn(lock.acquire).join()
    with pytest.raises(RuntimeError):
        lock.release()


def test_rlock_acquire_with_timeout():
    lock = RLock()
    gevent.spawn(lock.acquire).join()
    assert lock.acquire(timeout=0.001) is False


def test_rlock_is_handed_over_in_order():
    lock, order = RLock(), []

    def run(number):
        with lock, lock:
            order.append(number)
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(run, number) for number in range(5)])
    assert order == list(range(5))


def test_exception_in_the_with_block_releases():
    semaphore = Semaphore(1)
    with pytest.raises(KeyError), semaphore:
        raise KeyError
    assert semaphore.counter == 1


def test_semaphore_shared_by_threads_loses_no_permit():
    semaphore, total = Semaphore(1), []

    def work():
        for _ in range(50):
            with semaphore:
                total.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(total) == 200
    assert semaphore.counter == 1


@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_counter_can_be_set(kind):
    semaphore = kind(1)
    semaphore.acquire()
    semaphore.counter = 1
    assert semaphore.counter == 1
    assert semaphore.acquire(blocking=False)
    assert not semaphore.acquire(blocking=False)
    with pytest.raises(TypeError):
        semaphore.counter = "many"


@pytest.mark.ours_only("the real gevent wakes nobody until the next release, and takes any number")
def test_permits_that_are_set_wake_those_who_wait():
    semaphore = Semaphore(0)
    waiters = [gevent.spawn(semaphore.acquire, timeout=20) for _ in range(3)]
    gevent.sleep(0)
    semaphore.counter = 2
    gevent.joinall(waiters[:2])
    assert [waiter.value for waiter in waiters] == [True, True, None]
    assert semaphore.counter == 0
    semaphore.release()
    assert waiters[2].get()
    with pytest.raises(ValueError, match="-1"):
        semaphore.counter = -1
    assert semaphore.counter == 0
