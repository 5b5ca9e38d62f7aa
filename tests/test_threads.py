"""Threads: each has a hub of its own, and they come and go."""
import threading

import gevent
import pytest
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool, ThreadPoolExecutor
from implementation import run_script


def test_eight_threads_each_run_their_own_hub():
    run_script("""
        import threading, gevent
        from gevent.queue import Queue
        barrier, results, errors = threading.Barrier(8), [], []

        def work(number):
            try:
                barrier.wait()
                queue, received = Queue(2), []
                def produce():
                    for item in range(200):
                        queue.put((number, item))
                    queue.put(None)
                def consume():
                    for item in iter(queue.get, None):
                        received.append(item)
                        gevent.sleep(0 if item[1] % 10 else 0.0001)
                jobs = [gevent.spawn(produce), gevent.spawn(consume)]
                gevent.joinall(jobs, raise_error=True)
                assert received == [(number, item) for item in range(200)]
                with gevent.Timeout(0.001, False):
                    gevent.sleep(1000)
                results.append(id(gevent.get_hub()))
                barrier.wait()
                gevent.get_hub().destroy()
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        assert len(set(results)) == 8
    """)


def test_two_hundred_threads_come_and_go():
    run_script("""
        import gc, os, threading, gevent

        def work():
            jobs = [gevent.spawn(gevent.sleep, 0) for _ in range(5)]
            gevent.joinall(jobs, raise_error=True)
            gevent.get_hub().destroy(destroy_loop=True)
            done.append(1)

        done = []
        def some(count):
            for _ in range(count // 10):
                threads = [threading.Thread(target=work) for _ in range(10)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            gc.collect()
        some(20)
        before = len(os.listdir("/proc/self/fd"))
        some(200)
        assert len(done) == 220
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    """)


@pytest.mark.parametrize("is_destroyed", [True, False])
def test_a_thread_may_end_while_a_callback_of_its_hub_is_suspended(is_destroyed):
    completed = run_script("""
        import threading, gevent

        def work():
            here = lowlevel.getcurrent()
            gevent.get_hub().loop.run_callback(here.switch)
            gevent.get_hub().switch()
            if sys.argv[1] == "True":
                gevent.get_hub().destroy()
            done.append(1)

        done = []
        for _ in range(3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
        assert len(done) == 3
    """, is_destroyed)
    assert completed.stderr == ""


def test_threads_may_end_with_suspended_greenlets():
    run_script("""
        import gc, threading, gevent

        def work():
            jobs = [gevent.spawn(gevent.sleep, 1000) for _ in range(5)]
            raw = lowlevel.greenlet(lambda: lowlevel.getcurrent().parent.switch())
            raw.switch()
            gevent.sleep(0)
            done.append(jobs[0].dead)

        done = []
        for _ in range(20):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        gc.collect()
        assert gevent.spawn(lambda: 5).get() == 5
        assert done == [False] * 20
    """)


def test_result_from_another_thread_wakes_a_greenlet():
    result = AsyncResult()
    thread = threading.Thread(target=result.set, args=(5,))
    with gevent.Timeout(5):
        get_hub().loop.run_callback(thread.start)
        assert result.get() == 5
    thread.join()


def test_thread_pool_runs_beside_the_hub():
    pool = ThreadPool(3)
    order = []
    gate = threading.Event()
    waiting = [pool.spawn(gate.wait, 10) for _ in range(3)]
    gevent.spawn(order.append, "greenlet").join()
    gate.set()
    assert [result.get(timeout=5) for result in waiting] == [True] * 3
    assert order == ["greenlet"]
    assert pool.map(str, range(20)) == [str(number) for number in range(20)]
    pool.join()
    pool.kill()


def test_thread_pool_raises_what_the_function_raised(errors):
    pool = ThreadPool(1)
    try:
        pool.apply(lambda: 1 / 0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("no exception")
    finally:
        pool.kill()


def test_executor_is_a_concurrent_futures_executor():
    with ThreadPoolExecutor(2) as executor:
        assert executor.submit(lambda: 5).result(timeout=5) == 5
        assert sorted(executor.map(abs, [-1, -2])) == [1, 2]


def test_threads_of_the_pool_may_use_gevent_themselves():
    pool = ThreadPool(1)
    assert pool.apply(lambda: gevent.spawn(lambda: gevent.sleep(0.001) or 5).get()) == 5
    pool.kill()     # ends the thread and with it the hub of the thread
