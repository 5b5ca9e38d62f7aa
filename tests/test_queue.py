"""Queue, SimpleQueue, LifoQueue, PriorityQueue, Channel."""
import gevent
import pytest
from gevent.queue import (
    Channel,
    Empty,
    Full,
    JoinableQueue,
    LifoQueue,
    PriorityQueue,
    Queue,
    ShutDown,
    SimpleQueue,
)

ITEMS = [3, 1, 2]


@pytest.mark.parametrize(
    ("kind", "order"),
    [(Queue, [3, 1, 2]), (SimpleQueue, [3, 1, 2]), (LifoQueue, [2, 1, 3]), (PriorityQueue, [1, 2, 3])],
)
def test_each_kind_gives_items_in_its_order(kind, order):
    queue = kind()
    for item in ITEMS:
        queue.put(item)
    assert len(queue) == queue.qsize() == 3
    assert [queue.get() for _ in ITEMS] == order
    assert queue.empty()


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, LifoQueue, PriorityQueue])
def test_get_and_put_without_block_or_with_timeout(kind):
    queue = kind(1)
    for get in (lambda: queue.get(block=False), queue.get_nowait, lambda: queue.get(timeout=0.001)):
        with pytest.raises(Empty):
            get()
    queue.put(1)
    assert queue.full()
    for put in (lambda: queue.put(2, block=False), lambda: queue.put_nowait(2), lambda: queue.put(2, timeout=0.001)):
        with pytest.raises(Full):
            put()
    assert queue.get() == 1


def test_producers_and_consumers_pass_every_item_once():
    queue, received = Queue(2), []

    def produce(start):
        for item in range(start, start + 20):
            queue.put(item)

    def consume():
        for item in iter(queue.get, None):
            received.append(item)
            if item % 3 == 0:
                gevent.sleep(0)

    consumers = [gevent.spawn(consume) for _ in range(3)]
    gevent.joinall([gevent.spawn(produce, start) for start in (0, 100, 200)])
    for _ in consumers:
        queue.put(None)
    gevent.joinall(consumers)
    assert sorted(received) == [*range(20), *range(100, 120), *range(200, 220)]


def test_getters_are_served_in_order():
    queue = Queue()
    getters = [gevent.spawn(queue.get) for _ in range(5)]
    gevent.sleep(0)
    for item in range(5):
        queue.put(item)
    assert [getter.get() for getter in getters] == list(range(5))


def test_putters_are_served_in_order():
    queue = Queue(1)
    queue.put("first")
    putters = [gevent.spawn(queue.put, item) for item in range(5)]
    gevent.sleep(0)
    assert [queue.get() for _ in range(6)] == ["first", *range(5)]
    gevent.joinall(putters)


def test_queue_is_iterated_until_stop_iteration():
    queue = Queue(items=[1, 2])
    queue.put(StopIteration)
    assert list(queue) == [1, 2]


def test_peek_leaves_the_item():
    queue = Queue(items=[1, 2])
    assert queue.peek() == queue.peek_nowait() == queue.get() == 1
    queue.get()
    with pytest.raises(Empty):
        queue.peek(timeout=0.001)


def test_copy_is_independent():
    queue = Queue(items=[1, 2])
    copy = queue.copy()
    queue.get()
    assert copy.qsize() == 2


def test_join_waits_for_all_tasks():
    queue, order = JoinableQueue(), []

    def work():
        for item in iter(queue.get, None):
            gevent.sleep(0)
            order.append(item)
            queue.task_done()

    worker = gevent.spawn(work)
    for item in range(5):
        queue.put(item)
    assert queue.unfinished_tasks == 5
    queue.join()
    assert order == list(range(5))
    assert queue.unfinished_tasks == 0
    queue.put(None)
    worker.join()


def test_join_with_timeout_tells_whether_it_finished():
    queue = JoinableQueue(items=[1])
    assert queue.join(timeout=0.001) is False
    queue.get()
    queue.task_done()
    assert queue.join(timeout=0.001) is True


def test_task_done_too_often_is_an_error():
    with pytest.raises(ValueError):
        JoinableQueue().task_done()


def test_shutdown_refuses_puts_and_lets_gets_drain():
    queue = Queue(items=[1])
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.put(2)
    assert queue.get() == 1
    with pytest.raises(ShutDown):
        queue.get()


def test_shutdown_wakes_blocked_getters():
    queue = Queue()
    getter = gevent.spawn(queue.get)
    gevent.sleep(0)
    queue.shutdown()
    with pytest.raises(ShutDown):
        getter.get(timeout=1)


def test_immediate_shutdown_drops_the_items():
    queue = Queue(items=[1, 2])
    queue.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        queue.get()


def test_subclass_hooks_store_the_items():
    class Reversed(Queue):
        def _init(self, maxsize, items=None):
            self.queue = list(items or ())

        def _put(self, item):
            self.queue.insert(0, item)

        def _get(self):
            return self.queue.pop(0)

    queue = Reversed()
    queue.put(1)
    queue.put(2)
    assert [queue.get(), queue.get()] == [2, 1]


def test_priority_queue_takes_items_as_a_heap():
    assert PriorityQueue(items=[3, 1, 2]).get() == 1


def test_channel_hands_items_over_one_by_one():
    channel, order = Channel(), []

    def put():
        for item in range(3):
            channel.put(item)
            order.append(("put", item))

    putter = gevent.spawn(put)
    gevent.sleep(0)
    assert channel.balance == 1
    for _ in range(3):
        order.append(("got", channel.get()))
    putter.join()
    assert [item for kind, item in order if kind == "got"] == [0, 1, 2]
    assert sorted(order) == [("got", 0), ("got", 1), ("got", 2), ("put", 0), ("put", 1), ("put", 2)]


def test_channel_shows_who_waits_on_each_side():
    channel = Channel()
    putters = [gevent.spawn(channel.put, item) for item in ("first", "second")]
    gevent.sleep(0)
    assert [(item, waiter.greenlet) for item, waiter in channel.putters] == [
        ("first", putters[0]), ("second", putters[1])
    ]
    assert len(channel.getters) == 0 and channel.balance == 2
    putters[0].kill()
    assert [item for item, _ in channel.putters] == ["second"]
    assert channel.get() == "second"
    getters = [gevent.spawn(channel.get) for _ in range(2)]
    gevent.sleep(0)
    assert [waiter.greenlet for waiter in channel.getters] == getters
    assert len(channel.putters) == 0 and channel.balance == -2
    gevent.killall(getters)
    assert not channel.getters


def test_channel_that_is_polled_lets_others_run():
    channel, turns = Channel(), []

    def poll():
        while len(turns) < 6:
            with pytest.raises(Empty):
                channel.get(block=False)
            with pytest.raises(Full):
                channel.put_nowait(None)

    def run():
        for turn in range(6):
            turns.append(turn)
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(poll), gevent.spawn(run)], raise_error=True)
    # A partner that is ready already is in time.
    gevent.spawn(channel.put, "item")
    assert channel.get(block=False) == "item"


def test_channel_times_out_without_a_partner():
    channel = Channel()
    with pytest.raises(Empty):
        channel.get(timeout=0.001)
    with pytest.raises(Full):
        channel.put(1, timeout=0.001)
    assert channel.balance == 0


def test_exceptions_are_those_of_the_standard_library():
    import queue

    assert Empty is queue.Empty and Full is queue.Full
