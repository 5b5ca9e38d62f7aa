"""Objects that threads share: hubs with greenlets and native threads work on one object, and nothing is lost.

Every test lets real threads run into each other, with timeouts and kills at random (from a fixed seed), and counts at
the end: permits and items are conserved, nobody waits any more.
"""
import gc
import itertools
import random
import sys
import threading
import time

import gevent
import pytest
from gevent.event import AsyncResult, Event
from gevent.hub import Waiter, get_hub
from gevent.lock import BoundedSemaphore, RLock, Semaphore
from gevent.queue import Channel, Empty, Full, LifoQueue, PriorityQueue, Queue, SimpleQueue
from implementation import run_script

HUBS = 3
GREENLETS = 4
NATIVES = 2

pytestmark = pytest.mark.ours_only(
    "the real gevent calls the use of its objects by threads a best effort: it loses wake-ups and raises LoopExit"
)


class Crew:
    """Threads that do the same: `HUBS` with `GREENLETS` greenlets each, some of them killed, and `NATIVES` plain."""

    def __init__(self, work, rounds, kills=True):
        self.work = work
        self.rounds = rounds
        self.kills = kills
        self.errors = []
        self.numbers = itertools.count()

    def worker(self, chance):
        for _ in range(self.rounds):
            self.work(chance)

    def guarded(self, function, *arguments):
        try:
            function(*arguments)
        except gevent.GreenletExit:
            pass
        except BaseException as error:
            self.errors.append(error)

    def hub_thread(self, seed):
        chance = random.Random(seed)
        crew = [gevent.spawn(self.guarded, self.worker, random.Random(chance.random())) for _ in range(GREENLETS)]
        while self.kills and not all(crew):
            gevent.sleep(0)
        victims = GREENLETS // 2 if self.kills else 0
        while victims and any(crew):
            gevent.sleep(chance.random() / 200)
            victim = chance.randrange(GREENLETS)
            if not crew[victim].dead:
                victims -= 1
                crew[victim].kill(block=chance.random() < 0.5)
                crew[victim] = gevent.spawn(self.guarded, self.worker, random.Random(chance.random()))
        gevent.joinall(crew)

    def run(self):
        threads = [
            threading.Thread(target=self.guarded, args=(self.hub_thread, seed), daemon=True) for seed in range(HUBS)
        ] + [
            threading.Thread(target=self.guarded, args=(self.worker, random.Random(-seed)), daemon=True)
            for seed in range(1, NATIVES + 1)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))
        assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
        if self.errors:
            raise self.errors[0]


def pause(chance):
    """Let others run: the other greenlets of the thread, or other threads."""
    gevent.sleep(chance.choice((0, 0, 0, 0.0005)))


@pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
def test_permits_are_conserved(kind):
    semaphore = kind(3)
    holders = set()

    def work(chance):
        limit = chance.choice((None, None, 0, 0.0002, 0.002))
        if semaphore.acquire(timeout=limit):
            token = object()
            holders.add(token)
            try:
                assert len(holders) <= 3
                pause(chance)
            finally:
                holders.remove(token)
                semaphore.release()

    Crew(work, rounds=60).run()
    assert semaphore.counter == 3
    assert semaphore.linkcount() == 0


def test_rlock_is_held_by_one_at_a_time():
    lock = RLock()
    holders = []

    def work(chance):
        if lock.acquire(timeout=chance.choice((None, None, 0.0002, 0.002))):
            try:
                with lock:
                    holders.append(1)
                    assert len(holders) == 1
                    try:
                        pause(chance)
                    finally:
                        holders.pop()
            finally:
                lock.release()

    Crew(work, rounds=40).run()
    assert not lock.locked()
    assert lock.acquire(blocking=False)


class Ordered(int):
    """An item whose comparison is Python code, in which another thread may come along."""

    def __lt__(self, other):
        return int(self) < int(other)


class PythonQueue(Queue):
    """A queue whose items are kept by Python code."""

    def _put(self, item):
        super()._put(item)

    def _get(self):
        return super()._get()

    def _qsize(self):
        return super()._qsize()


@pytest.fixture
def hasty_threads():
    """Let threads be preempted a hundred times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("kind", [SimpleQueue, Queue, LifoQueue, PriorityQueue, PythonQueue])
@pytest.mark.parametrize("maxsize", [None, 2])
def test_items_are_conserved(kind, maxsize):
    queue = kind(maxsize)
    numbers = map(Ordered, itertools.count())
    sent, received = [], []

    def work(chance):
        limit = chance.choice((0.0002, 0.002, 0.02))
        if chance.random() < 0.5:
            number = next(numbers)
            try:
                queue.put(number, timeout=limit)
            except Full:
                return
            sent.append(number)
        else:
            try:
                received.append(queue.get(timeout=limit))
            except Empty:
                return

    Crew(work, rounds=100).run()
    while not queue.empty():
        received.append(queue.get())
    assert sorted(received) == sorted(sent)
    assert not queue.getters
    assert not queue.putters


def test_channel_hands_every_item_over_once():
    channel = Channel()
    numbers = itertools.count()
    sent, doubtful, received = set(), set(), []

    def work(chance):
        limit = chance.choice((0.0002, 0.002, 0.02))
        if chance.random() < 0.5:
            number = next(numbers)
            doubtful.add(number)
            try:
                channel.put(number, timeout=limit)
            except Full:
                doubtful.remove(number)
                return
            sent.add(number)
        else:
            try:
                received.append(channel.get(timeout=limit))
            except Empty:
                return

    Crew(work, rounds=100).run()
    while True:
        try:
            received.append(channel.get(block=False))
        except Empty:
            break
    assert len(received) == len(set(received))
    # A putter that was killed in the moment of the exchange cannot know whether it was.
    assert sent <= set(received) <= doubtful
    assert channel.balance == 0


def test_join_of_a_queue_waits_for_the_tasks_of_all_threads():
    queue = Queue()
    done = []

    def work(chance):
        queue.put(1)
        pause(chance)
        queue.get()
        done.append(1)
        queue.task_done()

    queue.put("held")
    joined = []
    joiners = [threading.Thread(target=lambda: joined.append(queue.join()), daemon=True) for _ in range(3)]
    for joiner in joiners:
        joiner.start()
    Crew(work, rounds=50, kills=False).run()
    assert not joined
    queue.get()
    queue.task_done()
    for joiner in joiners:
        joiner.join(10)
    assert len(joined) == 3
    assert len(done) == 50 * (HUBS * GREENLETS + NATIVES)


def test_every_set_of_an_event_reaches_every_waiter():
    rounds = 100
    events = [Event() for _ in range(rounds)]
    arrived = [Semaphore(0) for _ in range(rounds)]
    waiters = HUBS * GREENLETS + NATIVES
    threads, errors = [], []

    def wait():
        for event, here in zip(events, arrived, strict=True):
            here.release()
            if event.wait(10) is not True:
                errors.append(event)

    def hub_thread():
        gevent.joinall([gevent.spawn(wait) for _ in range(GREENLETS)], raise_error=True)

    for target in [hub_thread] * HUBS + [wait] * NATIVES:
        threads.append(threading.Thread(target=target, daemon=True))
        threads[-1].start()
    for event, here in zip(events, arrived, strict=True):
        for _ in range(waiters):
            assert here.acquire(timeout=10)
        event.set()
        event.clear()
        # A waiter that was about to wait when the flag went down again needs another.
        while event.linkcount():
            event.set()
            event.clear()
            gevent.sleep(0)
        event.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors


def test_a_result_reaches_greenlets_and_native_threads():
    results = [AsyncResult() for _ in range(200)]
    turns = iter(range(200))

    def work(chance):
        number = next(turns, None)
        if number is not None:
            results[number].set(number)
        other = chance.randrange(200)
        # Who was given a smaller number sets it without waiting; a larger one may be left to those who wait.
        is_coming = number is None or other <= number
        try:
            assert results[other].get(timeout=None if is_coming else chance.choice((0, 0.001, 0.01))) == other
        except gevent.Timeout:
            pass

    Crew(work, rounds=30, kills=False).run()
    assert [result.get(timeout=0) for result in results] == list(range(200))


def test_waiters_are_switched_to_from_other_threads():
    def serve(requests):
        while True:
            loop, waiter, number = requests.get()
            if waiter is None:
                return
            loop.run_callback_threadsafe(waiter.switch, number * 2)

    requests = SimpleQueue()
    server = threading.Thread(target=serve, args=(requests,), daemon=True)
    server.start()
    hub = get_hub()

    def ask(number):
        waiter = Waiter()
        with hub.loop.async_() as keeper:
            keeper.start(int)
            requests.put((hub.loop, waiter, number))
            return waiter.get()

    asking = [gevent.spawn(ask, number) for number in range(100)]
    with gevent.Timeout(10):
        gevent.joinall(asking)
    assert [greenlet.value for greenlet in asking] == [number * 2 for number in range(100)]
    requests.put((None, None, None))
    server.join(10)
    assert not server.is_alive()


def test_no_async_watcher_misses_the_last_signal():
    hub = get_hub()
    sent, seen = [], []
    watcher = hub.loop.async_()
    watcher.start(lambda: seen.append(len(sent)))

    def send():
        for _ in range(500):
            sent.append(1)
            watcher.send()

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    with gevent.Timeout(10):
        while not seen or seen[-1] < 1500:
            gevent.sleep(0.001)
    for thread in threads:
        thread.join()
    watcher.stop()
    watcher.close()


def in_thread(function, *arguments):
    """Start a native daemon thread."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("wait", [
    lambda gate: Semaphore(0).acquire(timeout=gate),
    lambda gate: Event().wait(timeout=gate),
    lambda gate: SimpleQueue().get(timeout=gate),
    lambda gate: Channel().get(timeout=gate),
    lambda gate: AsyncResult().wait(timeout=gate),
], ids=["semaphore", "event", "queue", "channel", "result"])
def test_a_wait_of_a_native_thread_ends_with_its_timeout(wait):
    outcome = []

    def run():
        begin = time.monotonic()
        try:
            outcome.append(wait(0.02))
        except Empty:
            outcome.append(None)
        outcome.append(time.monotonic() - begin)

    in_thread(run).join(10)
    assert not outcome[0]
    assert outcome[1] >= 0.019


MAKERS = {
    "semaphore": (lambda: Semaphore(0), lambda it: it.acquire(), lambda it: it.release()),
    "event": (Event, lambda it: it.wait(), lambda it: it.set()),
    "result": (AsyncResult, lambda it: it.get(), lambda it: it.set(1)),
    "simple_queue": (SimpleQueue, lambda it: it.get(), lambda it: it.put(1)),
    "queue": (Queue, lambda it: it.get(), lambda it: it.put(1)),
    "channel": (Channel, lambda it: it.get(), lambda it: it.put(1)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_hub_with_nothing_else_to_do_waits_for_another_thread(name):
    make, wait, wake = MAKERS[name]
    shared = make()
    thread = in_thread(lambda: (time.sleep(0.02), wake(shared)))
    assert wait(shared)
    thread.join(10)


@pytest.mark.parametrize("name", MAKERS)
def test_a_deadlock_of_one_thread_alone_raises_loop_exit(name):
    make, wait, _ = MAKERS[name]
    with pytest.raises(gevent.hub.LoopExit):
        wait(make())


@pytest.mark.parametrize("name", MAKERS)
def test_a_wait_raises_loop_exit_when_the_last_other_thread_has_ended(name):
    make, wait, _ = MAKERS[name]
    shared = make()
    thread = in_thread(time.sleep, 0.02)
    with pytest.raises(gevent.hub.LoopExit):
        wait(shared)
    thread.join(10)


def test_threads_that_all_wait_for_each_other_get_loop_exit():
    run_script("""
        import threading, gevent
        from gevent.event import Event
        ended = []
        def run():
            try:
                Event().wait()
            except gevent.hub.LoopExit:
                ended.append(1)
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            Event().wait()
        except gevent.hub.LoopExit:
            ended.append(0)
        for thread in threads:
            thread.join(10)
        assert sorted(ended) == [0, 1, 1, 1], ended
    """)


# -- finalizers -----------------------------------------------------------------------------------------------------

def test_a_finalizer_may_use_the_queue_that_is_being_used():
    queue = SimpleQueue()
    count = 2000

    class Trash:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            queue.put("from a finalizer")

    def produce():
        for number in range(count):
            queue.put(number)
            Trash()
            if number % 7 == 0:
                gevent.sleep(0)

    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        thread = in_thread(produce)
        greenlet = gevent.spawn(produce)
        received = []
        while len(received) < 4 * count:
            try:
                received.append(queue.get(timeout=1))
            except Empty:
                # The last ones, and what an incremental collector has left.
                gc.collect()
            if len(received) % 97 == 0:
                repr(queue)
        greenlet.join()
        thread.join(10)
    finally:
        gc.set_threshold(*thresholds)
    assert queue.empty()
    assert received.count("from a finalizer") == 2 * count
    assert len(received) == 4 * count


def test_a_finalizer_may_use_the_lock_that_is_being_used():
    semaphore, lock = Semaphore(2), RLock()
    ended = []

    class Trash:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if semaphore.acquire(blocking=False):
                semaphore.release()
            if lock.acquire(blocking=False):
                lock.release()
            ended.append(1)

    def work(chance):
        Trash()
        if semaphore.acquire(timeout=0.001):
            Trash()
            pause(chance)
            semaphore.release()
        with lock:
            Trash()
            pause(chance)

    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        Crew(work, rounds=30, kills=False).run()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert ended
    assert semaphore.counter == 2
    assert not lock.locked()


def test_a_signal_handler_may_wake_whoever_waits():
    run_script("""
        import os, signal, threading, gevent
        from gevent.event import Event
        from gevent.lock import Semaphore
        from gevent.queue import SimpleQueue
        semaphore, event, queue = Semaphore(0), Event(), SimpleQueue()
        def handler(number, frame):
            semaphore.release()
            event.set()
            queue.put("item")
        signal.signal(signal.SIGUSR1, handler)
        waiting = [gevent.spawn(semaphore.acquire), gevent.spawn(event.wait), gevent.spawn(queue.get)]
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        gevent.joinall(waiting)
        assert [greenlet.value for greenlet in waiting] == [True, True, "item"]
        timer.join()
    """)


# -- forks and the end ----------------------------------------------------------------------------------------------

def test_a_fork_leaves_no_waiter_of_a_thread_that_is_gone():
    run_script("""
        import os, threading, time, gevent
        from gevent.lock import Semaphore, RLock
        from gevent.queue import Queue
        from gevent.event import Event
        semaphore, queue, event = Semaphore(0), Queue(), Event()
        lock = RLock()
        lock.acquire()
        for wait in (semaphore.acquire, queue.get, event.wait, lock.acquire):
            threading.Thread(target=wait, daemon=True).start()
        while not (semaphore.linkcount() and queue.getters and event.linkcount()):
            time.sleep(0.001)
        time.sleep(0.01)
        child = os.fork()
        if not child:
            try:
                with gevent.Timeout(5):
                    mine = [gevent.spawn(wait) for wait in (semaphore.acquire, queue.get, event.wait, lock.acquire)]
                    gevent.sleep(0.001)
                    semaphore.release()
                    queue.put(1)
                    event.set()
                    lock.release()
                    gevent.joinall(mine)
                assert all(greenlet.value for greenlet in mine)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        for _ in range(2):
            semaphore.release()
            queue.put(1)
        event.set()
        lock.release()
    """)


@pytest.mark.parametrize("state", ["sleep", "lock", "busy", "greenlets", "native"])
def test_daemon_threads_do_not_disturb_the_exit(state):
    completed = run_script("""
        import sys, threading, time, gevent
        from gevent.lock import Semaphore
        from gevent.queue import SimpleQueue
        semaphore, queue = Semaphore(1), SimpleQueue()
        state = sys.argv[1]
        def run():
            if state == "sleep":
                gevent.sleep(1000)
            elif state == "lock":
                Semaphore(0).acquire()
            elif state == "native":
                time.sleep(1000)
            while True:
                if state == "greenlets":
                    gevent.joinall([gevent.spawn(gevent.sleep, 0.0001) for _ in range(3)])
                with semaphore:
                    queue.put(1)
                    queue.get()
        for _ in range(4):
            threading.Thread(target=run, daemon=True).start()
        time.sleep(0.05)
        with semaphore:
            gevent.sleep(0.01)
        print("end")
    """, state)
    assert completed.stdout.strip() == "end"
    assert completed.stderr == ""


def test_objects_can_be_used_at_the_end_of_the_process():
    completed = run_script("""
        import atexit, threading, time, gevent
        from gevent.event import Event
        from gevent.lock import RLock, Semaphore
        from gevent.queue import SimpleQueue
        semaphore, lock, queue, event = Semaphore(0), RLock(), SimpleQueue(), Event()

        class AtTheEnd:
            def __del__(self):
                semaphore.release()
                assert semaphore.acquire(timeout=0.001)
                with lock:
                    queue.put(1)
                assert queue.get() == 1
                event.set()
                sys.__stdout__.write("finalizer\\n")

        keep = AtTheEnd()
        keep.cycle = keep

        def late():
            def wake():
                time.sleep(0.01)
                semaphore.release()
            thread = threading.Thread(target=wake)
            try:
                thread.start()
            except RuntimeError:        # CPython 3.12 and later start no thread any more
                semaphore.release()
            assert semaphore.acquire(timeout=10)
            print("at exit")

        atexit.register(late)

        def other():
            with lock:
                gevent.sleep(0.01)
                queue.put(1)
            print("thread")

        threading.Thread(target=other).start()
        assert queue.get() == 1
    """)
    assert completed.stdout.split("\n")[:3] == ["thread", "at exit", "finalizer"]
    assert completed.stderr == ""
