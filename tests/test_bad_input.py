"""Bad input: the type of the error is gevent's, and here the message names the value that is wrong."""
import queue as stdlib_queue
import signal

import gevent
import gevent.baseserver
import gevent.core
import gevent.event
import gevent.exceptions
import gevent.hub
import gevent.local
import gevent.lock
import gevent.pool
import gevent.queue
import gevent.server
import gevent.socket
import gevent.threadpool
import pytest
from gevent import Greenlet, Timeout
from gevent.event import AsyncResult, Event
from gevent.lock import BoundedSemaphore, RLock, Semaphore
from gevent.pool import Group, Pool
from gevent.queue import Channel, PriorityQueue, Queue
from gevent.server import DatagramServer, StreamServer
from gevent.threadpool import ThreadPool, ThreadPoolExecutor
from implementation import IS_GREENRUST

LOCAL = ("127.0.0.1", 0)


def loop():
    return gevent.get_hub().loop


def full(*arguments, **options):
    filled = Queue(1)
    filled.put(None)
    return filled.put(*arguments, **options)


def busy_pool():
    pool = Pool(1)
    pool.spawn(gevent.sleep, 0.001)
    return pool


def handle(*_arguments):
    pass


#: What is called, the type of the error, and what of the value our message says; None where the value plays no part.
CALLS = {
    # -- greenlets
    "spawn": (lambda: gevent.spawn(42), TypeError, "42"),
    "Greenlet": (lambda: Greenlet("run"), TypeError, "'run'"),
    "spawn_raw": (lambda: gevent.spawn_raw(42), TypeError, "42"),
    "spawn_later": (lambda: gevent.spawn_later("soon", int), TypeError, "'soon'"),
    "spawn_later without function": (lambda: gevent.spawn_later(1), TypeError, None),
    "start_later": (lambda: Greenlet(int).start_later([]), TypeError, "[]"),
    "sleep": (lambda: gevent.sleep("long"), TypeError, "'long'"),
    "sleep None": (lambda: gevent.sleep(None), TypeError, "None"),
    "join": (lambda: Greenlet(int).join("x"), TypeError, "'x'"),
    "get": (lambda: Greenlet(int).get(timeout="x"), TypeError, "'x'"),
    "link": (lambda: Greenlet(int).link(42), TypeError, "42"),
    "rawlink": (lambda: Greenlet(int).rawlink(42), TypeError, "42"),
    "link_value": (lambda: Greenlet(int).link_value(42), TypeError, "42"),
    "link_exception": (lambda: Greenlet(int).link_exception(42), TypeError, "42"),
    "killall": (lambda: gevent.killall([42]), AttributeError, "42"),
    "joinall": (lambda: gevent.joinall([42]), AttributeError, None),
    "joinall of one": (lambda: gevent.joinall(42), TypeError, None),
    "wait": (lambda: gevent.wait([42]), AttributeError, None),
    "kill": (lambda: gevent.kill(42), AttributeError, None),
    "signal_handler": (lambda: gevent.signal_handler(signal.SIGUSR1, None), TypeError, None),
    "signal_handler number": (lambda: gevent.signal_handler(9999, int), ValueError, "9999"),
    "setswitchinterval": (lambda: gevent.setswitchinterval(-1), ValueError, "-1"),
    "setswitchinterval text": (lambda: gevent.setswitchinterval("x"), TypeError, "'x'"),
    # -- timeouts
    "Timeout": (lambda: Timeout("x"), TypeError, "'x'"),
    "Timeout.start_new": (lambda: Timeout.start_new("x"), TypeError, "'x'"),
    "with_timeout": (lambda: gevent.with_timeout("x", int), TypeError, "'x'"),
    "Event.wait": (lambda: Event().wait("x"), TypeError, "'x'"),
    "Event.rawlink": (lambda: Event().rawlink(42), TypeError, "42"),
    "AsyncResult.get": (lambda: AsyncResult().get(timeout="x"), TypeError, "'x'"),
    "AsyncResult.wait": (lambda: AsyncResult().wait("x"), TypeError, "'x'"),
    "AsyncResult.get_nowait": (lambda: AsyncResult().get_nowait(), Timeout, None),
    # -- locks
    "Semaphore": (lambda: Semaphore(-1), ValueError, "-1"),
    "Semaphore text": (lambda: Semaphore("x"), TypeError, "'x'"),
    "Semaphore hub": (lambda: Semaphore(1, 42), TypeError, "int"),
    "Semaphore.acquire": (lambda: Semaphore(0).acquire(timeout="x"), TypeError, "'x'"),
    "Semaphore.wait": (lambda: Semaphore(0).wait("x"), TypeError, "'x'"),
    "Semaphore.rawlink": (lambda: Semaphore(0).rawlink(42), TypeError, "42"),
    "BoundedSemaphore": (lambda: BoundedSemaphore(-1), ValueError, "-1"),
    "BoundedSemaphore.release": (lambda: BoundedSemaphore(1).release(), ValueError, None),
    "RLock.release": (lambda: RLock().release(), RuntimeError, None),
    "RLock hub": (lambda: RLock(42), TypeError, "int"),
    # -- queues
    "Queue": (lambda: Queue("x"), TypeError, None),
    "Queue items": (lambda: Queue(items=42), TypeError, None),
    "Queue.get": (lambda: Queue().get(timeout="x"), TypeError, "'x'"),
    "Queue.get negative": (lambda: Queue().get(timeout=-1), ValueError, "-1"),
    "Queue.put": (lambda: full(1, timeout="x"), TypeError, "'x'"),
    "Queue.put full": (lambda: full(1, block=False), stdlib_queue.Full, None),
    "Queue.get_nowait": (lambda: Queue().get_nowait(), stdlib_queue.Empty, None),
    "Queue.task_done": (lambda: Queue().task_done(), ValueError, None),
    "PriorityQueue": (lambda: PriorityQueue(items=[1, "a"]), TypeError, None),
    "Channel": (lambda: Channel(2), ValueError, "2"),
    "Channel text": (lambda: Channel("x"), ValueError, "'x'"),
    "Channel.get": (lambda: Channel().get(timeout="x"), TypeError, "'x'"),
    "Channel.put": (lambda: Channel().put(1, block=False), stdlib_queue.Full, None),
    # -- pools
    "Pool": (lambda: Pool(-1), ValueError, "-1"),
    "Pool text": (lambda: Pool("x"), TypeError, None),
    "Pool.map": (lambda: Pool(1).map(int, 42), TypeError, None),
    "Pool.imap keyword": (lambda: Pool(1).imap(int, [1], size=1), TypeError, "size"),
    "Pool.start": (lambda: Pool(1).start(42), AttributeError, None),
    "Pool full": (lambda: busy_pool().start(Greenlet(int), blocking=False), gevent.pool.PoolFull, None),
    "Pool.join": (lambda: busy_pool().join("x"), TypeError, "'x'"),
    "Group": (lambda: Group([42]), AttributeError, None),
    "ThreadPool": (lambda: ThreadPool(-1), ValueError, "-1"),
    "ThreadPool text": (lambda: ThreadPool("x"), TypeError, "'x'"),
    "ThreadPool.size": (lambda: setattr(ThreadPool(2), "size", 3), ValueError, "3"),
    "ThreadPool.size negative": (lambda: setattr(ThreadPool(2), "size", -1), ValueError, "-1"),
    "ThreadPool.maxsize": (lambda: setattr(ThreadPool(2), "maxsize", "x"), TypeError, "'x'"),
    "ThreadPoolExecutor": (lambda: ThreadPoolExecutor(0), ValueError, None),
    "local": (lambda: gevent.local.local(1), TypeError, None),
    "local attribute": (lambda: gevent.local.local().missing, AttributeError, "missing"),
    # -- hub and loop
    "Waiter": (lambda: gevent.hub.Waiter(42), TypeError, "int"),
    "Hub.wait": (lambda: gevent.get_hub().wait(42), AttributeError, None),
    "Hub.join": (lambda: gevent.get_hub().join("x"), TypeError, "'x'"),
    "Hub.switch_out": (lambda: gevent.get_hub().switch_out(), gevent.exceptions.BlockingSwitchOutError, None),
    "Hub.run": (lambda: gevent.get_hub().run(), AssertionError, None),
    "loop flag": (lambda: gevent.core.loop(flags="fast"), ValueError, "'fast'"),
    "loop back end": (lambda: gevent.core.loop(flags="kqueue"), ValueError, "kqueue"),
    "loop.io": (lambda: loop().io(-1, 1), ValueError, "-1"),
    "loop.io text": (lambda: loop().io("x", 1), TypeError, "'x'"),
    "loop.io events": (lambda: loop().io(0, 999), ValueError, "999"),
    "loop.timer": (lambda: loop().timer("x"), TypeError, "'x'"),
    "loop.timer repeat": (lambda: loop().timer(1, -1), ValueError, "-1"),
    "timer.start": (lambda: loop().timer(1).start(42), TypeError, "42"),
    "timer.callback": (lambda: setattr(loop().timer(1), "callback", 42), TypeError, "42"),
    "loop.signal": (lambda: loop().signal(9999), ValueError, "9999"),
    "loop.child": (lambda: loop().child("x"), TypeError, "'x'"),
    "loop.stat": (lambda: loop().stat(42), TypeError, None),
    "loop.closing_fd": (lambda: loop().closing_fd("x"), TypeError, "'x'"),
    "wait_read": (lambda: gevent.socket.wait_read("x"), TypeError, "'x'"),
    "wait_read negative": (lambda: gevent.socket.wait_read(-1), ValueError, "-1"),
    # -- settings
    "config": (lambda: gevent.config.missing, AttributeError, "'missing'"),
    "config.loop": (lambda: setattr(gevent.config, "loop", "fast"), ImportError, "'fast'"),
    "config.resolver": (lambda: setattr(gevent.config, "resolver", "x"), ImportError, "'x'"),
    "config.max_blocking_time": (lambda: setattr(gevent.config, "max_blocking_time", "x"), ValueError, "'x'"),
    "config.max_blocking_time negative": (lambda: setattr(gevent.config, "max_blocking_time", -1), ValueError, "-1"),
    "config.monitor_thread": (lambda: setattr(gevent.config, "monitor_thread", "maybe"), ValueError, "'maybe'"),
    "config.max_memory_usage": (lambda: setattr(gevent.config, "max_memory_usage", "10xb"), ValueError, "'10xb'"),
    # -- servers
    "StreamServer address": (lambda: StreamServer("x", handle), ValueError, "'x'"),
    "StreamServer None": (lambda: StreamServer(None, handle), TypeError, "NoneType"),
    "StreamServer port": (lambda: StreamServer(("127.0.0.1", 99999), handle).start(), OverflowError, None),
    "StreamServer spawn": (lambda: StreamServer(LOCAL, handle, spawn=-1), ValueError, "-1"),
    "StreamServer without handle": (lambda: StreamServer(LOCAL).start(), TypeError, "handle"),
    "StreamServer backlog": (
        lambda: StreamServer(gevent.socket.socket(), handle, backlog=5), TypeError, "backlog"),
    "DatagramServer": (lambda: DatagramServer(1.5, handle), TypeError, "float"),
    "BaseServer": (lambda: gevent.baseserver.BaseServer([], handle), TypeError, "list"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_is_refused(name):
    call, error, mentioned = CALLS[name]
    with Timeout(10, RuntimeError("hangs")), pytest.raises(error) as caught:
        call()
    if IS_GREENRUST and mentioned is not None:
        assert mentioned in str(caught.value)


def test_a_huge_thread_pool_costs_nothing():
    pool = ThreadPool(2**30)
    assert pool.apply(abs, (-1,)) == 1
    assert pool.size == 1
    pool.kill()


def test_counts_may_be_floats():
    assert Semaphore(1.5).counter == 1
    pool = Pool(5 / 2)
    assert pool.size == 2.5
    assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_no_function_means_that_of_the_class():
    assert gevent.spawn(None).get() is None


@pytest.mark.ours_only("the thread pool of gevent finds it out when a thread is idle, in that thread")
def test_idle_task_timeout_of_a_thread_pool_is_checked_at_once():
    with pytest.raises(TypeError):
        ThreadPool(1, idle_task_timeout="x")


@pytest.mark.ours_only("gevent stores it, and nothing reads it")
def test_unknown_setting_is_refused():
    with pytest.raises(AttributeError, match="'missing'"):
        gevent.config.missing = 1
