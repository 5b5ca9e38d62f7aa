"""Thread pools: blocking calls in other threads, waited for by greenlets."""
import concurrent.futures
import os
import threading

import gevent
import gevent.event
import pytest
from gevent.exceptions import InvalidThreadUseError
from gevent.threadpool import ThreadPool, ThreadPoolExecutor, ThreadResult


@pytest.fixture
def pool():
    pool = ThreadPool(2)
    yield pool
    pool.kill()


def test_apply_returns_the_result_of_another_thread(pool):
    assert pool.apply(threading.get_ident) != threading.get_ident()
    assert pool.apply(int, ("10",), {"base": 2}) == 2
    assert pool.size == 1


def test_greenlets_run_while_a_thread_works(pool):
    gate = threading.Event()
    result = pool.spawn(gate.wait)
    assert len(pool) == 1
    gevent.spawn(gate.set).join()
    assert result.get(timeout=5) is True
    pool.join()
    assert len(pool) == 0


@pytest.mark.parametrize("call", [lambda pool, f: pool.apply(f), lambda pool, f: pool.spawn(f).get()])
def test_error_reaches_the_caller_with_its_traceback(pool, call):
    def fails():
        raise ValueError("expected")

    with pytest.raises(ValueError, match="expected") as caught:
        call(pool, fails)
    assert caught.traceback[-1].name == "fails"
    assert pool.apply(abs, (-1,)) == 1


def test_no_more_threads_than_maxsize_work_and_spawn_waits(pool):
    gate = threading.Event()
    try:
        results = [pool.spawn(gate.wait) for _ in range(3)]     # two run, one is at hand
        fourth = gevent.spawn(pool.spawn, abs, -1)
        gevent.sleep(0.01)
        assert not fourth.dead and pool.size == 2
    finally:
        gate.set()
    assert fourth.get(timeout=5).get(timeout=5) == 1
    assert [result.get(timeout=5) for result in results] == [True, True, True]


def test_maxsize_of_zero_holds_tasks_back_until_it_grows(pool):
    pool.maxsize = 0
    waiting = gevent.spawn(pool.apply, abs, (-1,))
    gevent.sleep(0.01)
    assert not waiting.dead
    pool.maxsize = 1
    assert waiting.get(timeout=5) == 1


def test_size_can_be_set_up_to_maxsize(pool):
    pool.size = 2
    assert pool.size == 2
    with pytest.raises(ValueError, match="maxsize"):
        pool.size = 3
    pool.size = 0
    assert pool.size == 0


@pytest.mark.parametrize(("maxsize", "error"), [(-1, ValueError), ("2", TypeError)])
def test_bad_maxsize_is_refused(maxsize, error):
    with pytest.raises(error):
        ThreadPool(maxsize)


def test_mapping_keeps_the_order(pool):
    assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
    assert list(pool.imap(abs, range(-10, 0))) == list(range(10, 0, -1))
    assert sorted(pool.imap_unordered(abs, range(-10, 0))) == list(range(1, 11))


def test_other_threads_may_apply_but_not_spawn(pool):
    outcome = []

    def other():
        outcome.append(pool.apply(threading.get_ident) == threading.get_ident())
        with pytest.raises(InvalidThreadUseError):
            pool.spawn(abs, 1)
        outcome.append("refused")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert outcome == [True, "refused"]


def test_apply_within_a_task_runs_at_once():
    pool = ThreadPool(1)
    assert pool.apply(lambda: pool.apply(abs, (-1,))) == 1
    pool.kill()


def test_given_up_wait_leaves_the_pool_usable(pool):
    gate = threading.Event()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        pool.apply(gate.wait)
    gate.set()
    pool.join()
    assert pool.apply(abs, (-1,)) == 1


def test_idle_threads_end():
    pool = ThreadPool(1, idle_task_timeout=0.01)
    assert pool.apply(abs, (-1,)) == 1
    with gevent.Timeout(5):
        while pool.size:
            gevent.sleep(0.001)
    assert pool.apply(abs, (-2,)) == 2
    pool.kill()


@pytest.mark.ours_only("the real pool hangs in the child when one of its threads had a hub")
def test_child_of_a_fork_starts_without_threads(pool):
    pool.apply(abs, (-1,))
    # A thread with a hub of its own must not take the child's hub with it.
    pool.apply(gevent.sleep, (0,))
    process = gevent.os.fork()
    if process == 0:
        try:
            status = 0 if pool.apply(abs, (-3,)) == 3 else 1
        except BaseException:
            status = 2
        os._exit(status)
    with gevent.Timeout(10):
        assert gevent.os.waitpid(process, 0)[1] == 0


def test_executor_gives_futures():
    with ThreadPoolExecutor(2) as executor:
        assert executor.submit(abs, -1).result(timeout=5) == 1
        assert list(executor.map(abs, [-1, -2])) == [1, 2]


def test_an_error_in_a_futures_callback_does_not_hinder_its_reader():
    called = []

    def callback(future):
        called.append(future.result())
        raise ValueError("printed by concurrent.futures")

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(abs, -1)
        future.add_done_callback(callback)
        assert future.result(timeout=5) == 1
        gevent.sleep(0)
        assert called == [1]


def test_waiting_for_futures_by_concurrent_futures_is_refused_where_it_would_hang():
    started = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(started.wait)
        with pytest.raises(AttributeError):
            concurrent.futures.wait([future])
        started.set()
        assert gevent.wait([future], timeout=5) == [future]
        gevent.sleep(0)
        assert concurrent.futures.wait([future]).done == {future}


@pytest.mark.ours_only("the real gevent sometimes leaves what was waiting undone for ever")
def test_kill_ends_threads_that_were_started_meanwhile():
    pool = ThreadPool(4)
    go_on = threading.Event()
    results = pool.map_async(lambda _: go_on.wait(5), range(12))
    gevent.sleep(0)
    killer = gevent.spawn(pool.kill)
    gevent.sleep(0)
    go_on.set()
    killer.get(timeout=10)
    assert results.get(timeout=10) == [True] * 12
    pool.kill()
    assert pool.size == 0


def test_thread_result_hands_over_values_and_errors(errors):
    calls = []

    def receive(result):
        calls.append((result.value, result.exception, result.successful()))
        arrived.set()

    def hand_over(act, *args):
        result = ThreadResult(receive, gevent.get_hub(), lambda: calls.append("ready"))
        thread = threading.Thread(target=getattr(result, act), args=args)
        thread.start()
        thread.join()
        assert arrived.wait(timeout=5)
        arrived.clear()
        assert result.value is None

    arrived = gevent.event.Event()
    hand_over("set", 42)
    error = KeyError("reported")
    hand_over("handle_error", "the context", (KeyError, error, None))
    assert calls == ["ready", (42, None, True), "ready", (None, error, False)]
    assert "the context failed with KeyError" in errors.getvalue()


def test_joined_pool_has_handed_over_all_outcomes(errors):
    pool = ThreadPool(1)
    results = [pool.spawn(int, text) for text in ("1", "x", "2", "y")]
    pool.join()
    assert [result.ready() for result in results] == [True] * 4
    assert errors.getvalue().count("failed with ValueError") == 2
    pool.kill()


def test_repr_of_a_hub_with_pool_and_resolver_ends():
    hub = gevent.get_hub()
    assert repr(hub.threadpool) in repr(hub)
    assert repr(hub.resolver) in repr(hub)


def test_pool_shows_the_tasks_that_wait_for_a_thread(pool):
    gate = threading.Event()
    pool.maxsize = 1
    results = [pool.spawn(gate.wait) for _ in range(2)]
    while pool.task_queue.qsize() != 1:
        gevent.sleep(0.001)
    assert pool.task_queue.unfinished_tasks == len(pool) == 2
    assert not pool.task_queue.empty() and not pool.task_queue.full()
    gate.set()
    assert [result.get(timeout=10) for result in results] == [True, True]
    pool.join()
    assert pool.task_queue.qsize() == 0 and pool.task_queue.empty()
    assert pool.manager is None


def test_pool_knows_its_process_and_watches_for_forks():
    pool = ThreadPool(1)
    assert pool.pid == os.getpid() == pool.apply(os.getpid)
    assert pool.fork_watcher.active and not pool.fork_watcher.ref
    assert pool.fork_watcher is pool.fork_watcher
    pool.kill()
    assert not pool.fork_watcher.active


def test_hub_of_a_worker_has_a_name_after_the_task_that_made_it():
    pool = ThreadPool(1)
    try:
        assert pool.apply(lambda: gevent.get_hub().name) == ""
        assert pool.apply(lambda: gevent.get_hub().name) == "ThreadPool Worker Hub"
        assert pool.apply(lambda: repr(gevent.get_hub())).startswith("<Hub 'ThreadPool Worker Hub' at 0x")
    finally:
        pool.kill()
