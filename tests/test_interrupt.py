"""Kill and Timeout at every blocking call: the call ends at once and leaves its object usable.

Each case makes a call that blocks for ever and says how to prove afterwards that nothing is lost: no item gone, no
permit leaked, no stale waiter that swallows the next wake-up.
"""
import _thread
import contextlib
import gc
import os
import weakref

import gevent
import gevent.os
import gevent.thread
import pytest
from gevent import select, selectors, socket, subprocess
from gevent.event import AsyncResult, Event
from gevent.fileobject import FileObject
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore, RLock, Semaphore
from gevent.pool import Group, Pool
from gevent.queue import Channel, JoinableQueue, LifoQueue, PriorityQueue, Queue, SimpleQueue
from gevent.resolver.thread import Resolver
from gevent.server import StreamServer
from gevent.threadpool import ThreadPool, ThreadPoolExecutor
from implementation import run_script

CASES = {}
NAMES = []


def case(function, *marks):
    """Register a generator function: it yields the blocking call, and goes on with the proof once that was ended."""
    CASES[function.__name__] = contextlib.contextmanager(function)
    NAMES.append(pytest.param(function.__name__, marks=marks))
    return function


def ours_case(reason):
    """As `case`, for what the real gevent does not pass."""
    return lambda function: case(function, pytest.mark.ours_only(reason))


def finishes(function, *arguments):
    """Run `function` in a greenlet, and fail when it does not end soon; return its value."""
    with gevent.Timeout(5):
        return gevent.spawn(function, *arguments).get()


@contextlib.contextmanager
def busy_thread_pool():
    """Make a pool of one thread that is busy inside the `with` block."""
    pool = ThreadPool(1)
    gate = _thread.allocate_lock()
    gate.acquire()
    result = pool.spawn(gate.acquire)
    try:
        yield pool
    finally:
        gate.release()
    assert finishes(result.get) is True


@case
def sleep():
    yield lambda: gevent.sleep(1000)


@case
def idle_hub_switch():
    yield lambda: gevent.get_hub().switch()


@case
def greenlet_join():
    blocked = gevent.spawn(gevent.sleep, 1000)
    yield blocked.join
    assert not blocked.dead
    blocked.kill()
    finishes(blocked.join)


@case
def greenlet_get():
    gate = Event()
    blocked = gevent.spawn(lambda: gate.wait() and "value")
    yield blocked.get
    gate.set()
    assert finishes(blocked.get) == "value"


@case
def joinall():
    blocked = [gevent.spawn(gevent.sleep, 1000) for _ in range(3)]
    yield lambda: gevent.joinall(blocked)
    gevent.killall(blocked)
    finishes(gevent.joinall, blocked)


@case
def wait():
    events = [Event(), Event()]
    yield lambda: gevent.wait(events)
    for event in events:
        event.set()
    assert len(finishes(gevent.wait, events)) == 2


@case
def event_wait():
    event = Event()
    yield event.wait
    waiter = gevent.spawn(event.wait)
    gevent.sleep(0)
    event.set()
    assert waiter.get(timeout=5) is True


@case
def async_result_get():
    result = AsyncResult()
    yield result.get
    waiter = gevent.spawn(result.get)
    gevent.sleep(0)
    result.set("value")
    assert waiter.get(timeout=5) == "value"


@case
def async_result_wait():
    result = AsyncResult()
    yield result.wait
    result.set("value")
    assert finishes(result.wait) == "value"


@case
def semaphore_acquire():
    semaphore = Semaphore(1)
    semaphore.acquire()
    yield semaphore.acquire
    next_one = gevent.spawn(semaphore.acquire)
    gevent.sleep(0)
    semaphore.release()
    assert next_one.get(timeout=5) is True
    semaphore.release()
    assert semaphore.counter == 1


@case
def semaphore_wait():
    semaphore = Semaphore(0)
    yield semaphore.wait
    semaphore.release()
    assert semaphore.counter == 1
    assert finishes(semaphore.wait) == 1


@case
def bounded_semaphore_with():
    semaphore = BoundedSemaphore(1)
    semaphore.acquire()

    def enter():
        with semaphore:
            raise AssertionError("entered")

    yield enter
    semaphore.release()
    assert semaphore.counter == 1
    assert finishes(semaphore.acquire) is True


@case
def rlock_acquire():
    lock = RLock()
    held = gevent.spawn(lock.acquire)
    held.join()
    yield lock.acquire
    assert lock.locked()
    other = gevent.spawn(lock.acquire)
    gevent.sleep(0)
    assert not other.ready()
    other.kill()


@case
def queue_get():
    queue = Queue()
    yield queue.get
    queue.put("item")
    assert queue.qsize() == 1
    assert finishes(queue.get) == "item"


@case
def queue_get_with_another_getter_behind():
    queue = Queue()
    yield queue.get
    behind = gevent.spawn(queue.get)
    gevent.sleep(0)
    queue.put("item")
    assert behind.get(timeout=5) == "item"


def put_into_a_full(queue):
    queue.put(2)
    yield lambda: queue.put(1)
    assert queue.get() == 2
    assert queue.empty()
    finishes(queue.put, 3)
    assert queue.get() == 3


@case
def queue_put():
    yield from put_into_a_full(Queue(1))


@case
def lifo_queue_put():
    yield from put_into_a_full(LifoQueue(1))


@case
def priority_queue_put():
    yield from put_into_a_full(PriorityQueue(1))


@case
def simple_queue_put():
    yield from put_into_a_full(SimpleQueue(1))


@case
def queue_peek():
    queue = Queue()
    yield queue.peek
    queue.put("item")
    assert finishes(queue.peek) == "item"
    assert queue.get() == "item"


@case
def queue_join():
    queue = JoinableQueue()
    queue.put("item")
    yield queue.join
    queue.get()
    queue.task_done()
    finishes(queue.join)


@case
def simple_queue_get():
    queue = SimpleQueue()
    yield queue.get
    queue.put("item")
    assert finishes(queue.get) == "item"


@case
def lifo_queue_get():
    queue = LifoQueue()
    yield queue.get
    queue.put(1)
    queue.put(2)
    assert finishes(queue.get) == 2


@case
def priority_queue_get():
    queue = PriorityQueue()
    yield queue.get
    queue.put(2)
    queue.put(1)
    assert finishes(queue.get) == 1


@case
def channel_get():
    channel = Channel()
    yield channel.get
    assert channel.balance == 0
    putter = gevent.spawn(channel.put, "item")
    assert finishes(channel.get) == "item"
    putter.join()


@case
def channel_put():
    channel = Channel()
    yield lambda: channel.put("interrupted")
    assert channel.balance == 0
    putter = gevent.spawn(channel.put, "item")
    assert finishes(channel.get) == "item"
    putter.join()


@case
def pool_spawn_when_full():
    pool = Pool(1)
    holder = pool.spawn(gevent.sleep, 1000)
    yield lambda: pool.spawn(int)
    assert len(pool) == 1
    holder.kill()
    assert finishes(lambda: pool.spawn(str, "ran").get()) == "ran"
    pool.join()
    assert pool.free_count() == 1


@case
def pool_wait_available():
    pool = Pool(1)
    holder = pool.spawn(gevent.sleep, 1000)
    yield pool.wait_available
    holder.kill()
    finishes(pool.wait_available)


@case
def pool_map():
    pool = Pool(2)
    gate = Event()
    yield lambda: pool.map(lambda number: gate.wait(), range(5))
    gate.set()
    finishes(pool.join)
    assert finishes(pool.map, str, [1, 2, 3]) == ["1", "2", "3"]
    assert pool.free_count() == 2


@case
def group_join():
    group = Group()
    member = group.spawn(gevent.sleep, 1000)
    yield group.join
    assert member in group
    member.kill()
    finishes(group.join)


@case
def socket_recv():
    a, b = socket.socketpair()
    with a, b:
        yield lambda: a.recv(1)
        b.sendall(b"x")
        assert finishes(a.recv, 10) == b"x"


@case
def socket_recv_into():
    a, b = socket.socketpair()
    buffer = bytearray(4)
    with a, b:
        yield lambda: a.recv_into(buffer)
        assert buffer == bytearray(4)
        b.sendall(b"x")
        assert finishes(a.recv_into, buffer) == 1


def fill(sock):
    """Send into `sock` until it would block; return the number of bytes."""
    sent = 0
    sock.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 65536)
    sock.settimeout(None)
    return sent


@case
def socket_send():
    a, b = socket.socketpair()
    with a, b:
        sent = fill(a)
        yield lambda: a.send(b"y")
        received = 0
        while received < sent:
            received += len(b.recv(1 << 20))
        assert finishes(a.send, b"z") == 1
        assert b.recv(10) == b"z"


@case
def socket_sendall():
    a, b = socket.socketpair()
    with a, b:
        fill(a)
        yield lambda: a.sendall(b"y" * 10)
        a.shutdown(socket.SHUT_WR)
        received = finishes(lambda: b"".join(iter(lambda: b.recv(1 << 20), b"")))
        assert b"y" not in received


@case
def socket_accept():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.accept
        with socket.create_connection(listener.getsockname()):
            connection, _ = finishes(listener.accept)
            connection.close()


@case
def socket_connect():
    # A listener whose backlog is full answers no further handshake, so that connect waits.
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        sock = stack.enter_context(socket.socket())
        yield lambda: sock.connect(listener.getsockname())


@case
def socket_recvfrom():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield lambda: sock.recvfrom(10)
        sock.sendto(b"x", sock.getsockname())
        assert finishes(sock.recvfrom, 10) == (b"x", sock.getsockname())


@case
def makefile_read():
    a, b = socket.socketpair()
    with a, b, a.makefile("rb") as file:
        yield file.read
        b.sendall(b"x")
        assert finishes(a.recv, 10) == b"x"


@case
def select_select():
    a, b = socket.socketpair()
    with a, b:
        yield lambda: select.select([a], [], [])
        b.sendall(b"x")
        assert finishes(select.select, [a], [], []) == ([a], [], [])


@case
def select_poll():
    a, b = socket.socketpair()
    with a, b:
        poll = select.poll()
        poll.register(a, select.POLLIN)
        yield poll.poll
        b.sendall(b"x")
        assert finishes(poll.poll) == [(a.fileno(), select.POLLIN)]


@case
def wait_read():
    a, b = socket.socketpair()
    with a, b:
        yield lambda: socket.wait_read(a.fileno())
        b.sendall(b"x")
        finishes(socket.wait_read, a.fileno())
        assert a.recv(1) == b"x"


@case
def wait_write():
    a, b = socket.socketpair()
    with a, b:
        fill(a)
        yield lambda: socket.wait_write(a.fileno())
        while select.select([b], [], [], 0)[0]:
            b.recv(1 << 20)
        finishes(socket.wait_write, a.fileno())


@case
def thread_pool_result():
    with busy_thread_pool() as pool:
        result = pool.spawn(str, "late")
        yield result.get
    assert finishes(result.get) == "late"
    assert finishes(pool.apply, str, ("next",)) == "next"
    pool.kill()

@case
def thread_pool_apply():
    with busy_thread_pool() as pool:
        yield lambda: pool.apply(str, ("late",))
    assert finishes(pool.apply, str, ("next",)) == "next"
    finishes(pool.join)
    pool.kill()


@case
def thread_pool_spawn_when_full():
    with busy_thread_pool() as pool:
        waiting = []
        with gevent.Timeout(0.005, False):
            # A pool takes a few tasks more than it has threads.
            while len(waiting) < 10:
                waiting.append(pool.spawn(str, "waiting"))
        assert len(waiting) < 10
        yield lambda: pool.spawn(str, "interrupted")
    assert [finishes(result.get) for result in waiting] == ["waiting"] * len(waiting)
    assert finishes(lambda: pool.spawn(str, "next").get()) == "next"
    pool.kill()


@case
def thread_pool_join():
    with busy_thread_pool() as pool:
        yield pool.join
    finishes(pool.join)
    assert finishes(pool.apply, str, ("next",)) == "next"
    pool.kill()


@case
def thread_pool_map():
    with busy_thread_pool() as pool:
        yield lambda: pool.map(str, [1, 2, 3])
    assert finishes(pool.map, str, [4, 5]) == ["4", "5"]
    pool.kill()


@ours_case("the real gevent's Future.result() turns the caller's own Timeout into concurrent.futures.TimeoutError")
def executor_future_result():
    executor = ThreadPoolExecutor(1)
    gate = _thread.allocate_lock()
    gate.acquire()
    future = executor.submit(gate.acquire)
    try:
        yield future.result
    finally:
        gate.release()
    assert finishes(future.result) is True
    assert finishes(lambda: executor.submit(str, "next").result()) == "next"
    executor.shutdown()


@case
def get_address_info():
    with pytest.MonkeyPatch.context() as patch, busy_thread_pool() as pool:
        patch.setattr(gevent.get_hub(), "threadpool", pool)
        patch.setattr(gevent.get_hub(), "resolver", Resolver(gevent.get_hub()))
        yield lambda: socket.getaddrinfo("localhost", 80)
    assert finishes(socket.getaddrinfo, "localhost", 80, socket.AF_INET)[0][4] == ("127.0.0.1", 80)
    pool.kill()


@case
def queue_iteration():
    queue = Queue()
    yield lambda: list(queue)
    queue.put("item")
    queue.put(StopIteration)
    assert finishes(list, queue) == ["item"]


@case
def channel_iteration():
    channel = Channel()
    yield lambda: list(channel)
    assert channel.balance == 0


@case
def iwait():
    events = [Event(), Event()]
    yield lambda: list(gevent.iwait(events))
    assert [event.linkcount() for event in events] == [0, 0]
    for event in events:
        event.set()
    assert len(finishes(lambda: list(gevent.iwait(events)))) == 2


@case
def wait_for_one_of_several():
    events = [Event(), AsyncResult()]
    yield lambda: gevent.wait(events, count=1)
    assert [event.linkcount() if isinstance(event, Event) else 0 for event in events] == [0, 0]
    events[1].set("value")
    assert finishes(gevent.wait, events, None, 1) == [events[1]]


@case
def hub_wait():
    a, b = socket.socketpair()
    with a, b, gevent.get_hub().loop.io(a.fileno(), 1) as watcher:
        yield lambda: gevent.get_hub().wait(watcher)
        assert not watcher.active
        b.sendall(b"x")
        finishes(gevent.get_hub().wait, watcher)


@case
def waiter_get():
    waiter = Waiter()
    yield waiter.get


@case
def kill_of_a_greenlet_that_refuses():
    gate = Event()

    def refuse():
        while not gate.is_set():
            try:
                gate.wait()
            except gevent.GreenletExit:
                pass

    refusing = gevent.spawn(refuse)
    gevent.sleep(0)
    yield refusing.kill
    gate.set()
    finishes(refusing.join)


@case
def pool_add():
    pool = Pool(1)
    holder = pool.spawn(gevent.sleep, 1000)
    left_out = gevent.Greenlet(int)
    yield lambda: pool.add(left_out)
    assert left_out not in pool
    holder.kill()
    added = gevent.Greenlet(str, "ran")
    finishes(pool.add, added)
    added.start()
    assert finishes(added.get) == "ran"
    finishes(pool.join)
    assert pool.free_count() == 1


@case
def pool_apply():
    pool = Pool(1)
    holder = pool.spawn(gevent.sleep, 1000)
    yield lambda: pool.apply(int)
    holder.kill()
    assert finishes(pool.apply, str, ("ran",)) == "ran"
    finishes(pool.join)
    assert pool.free_count() == 1


@case
def pool_join():
    pool = Pool(2)
    member = pool.spawn(gevent.sleep, 1000)
    yield pool.join
    member.kill()
    finishes(pool.join)
    assert pool.free_count() == 2


@case
def pool_imap():
    pool = Pool(2)
    gate = Event()
    yield lambda: list(pool.imap(lambda number: gate.wait(), range(5)))
    gate.set()
    finishes(pool.join)
    assert finishes(lambda: list(pool.imap(str, [1, 2, 3]))) == ["1", "2", "3"]
    assert pool.free_count() == 2


@case
def pool_imap_unordered():
    pool = Pool(2)
    gate = Event()
    yield lambda: list(pool.imap_unordered(lambda number: gate.wait(), range(5)))
    gate.set()
    finishes(pool.join)
    assert sorted(finishes(lambda: list(pool.imap_unordered(str, [1, 2, 3])))) == ["1", "2", "3"]
    assert pool.free_count() == 2


@case
def subprocess_wait():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        yield child.wait
        child.stdin.close()
        assert finishes(child.wait) == 0


@case
def subprocess_communicate():
    reading, writing = os.pipe()
    child = subprocess.Popen(["sh", "-c", "read line; echo $line"], stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    with child:
        yield child.communicate
        os.write(writing, b"line\n")
        os.close(writing)
        assert finishes(child.wait) == 0


@case
def waitpid():
    reading, writing = os.pipe()
    pid = gevent.os.fork_and_watch()
    if not pid:
        try:
            os.close(writing)
            os.read(reading, 1)
        finally:
            os._exit(7)
    os.close(reading)
    yield lambda: gevent.os.waitpid(pid, 0)
    os.close(writing)
    assert finishes(gevent.os.waitpid, pid, 0) == (pid, 7 << 8)


@case
def file_object_read():
    reading, writing = os.pipe()
    with FileObject(reading, "rb", buffering=0) as file:
        yield lambda: file.read(1)
        os.write(writing, b"x")
        os.close(writing)
        assert finishes(file.read, 1) == b"x"


@case
def nonblocking_read():
    reading, writing = os.pipe()
    gevent.os.make_nonblocking(reading)
    yield lambda: gevent.os.nb_read(reading, 1)
    os.write(writing, b"x")
    assert finishes(gevent.os.nb_read, reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


@case
def nonblocking_write():
    reading, writing = os.pipe()
    gevent.os.make_nonblocking(writing)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 65536)
    yield lambda: gevent.os.nb_write(writing, b"y")
    os.read(reading, 1 << 20)
    assert finishes(gevent.os.nb_write, writing, b"z") == 1
    os.close(reading)
    os.close(writing)


@case
def selector_select():
    a, b = socket.socketpair()
    with a, b, selectors.DefaultSelector() as selector:
        selector.register(a, selectors.EVENT_READ, "data")
        yield selector.select
        b.sendall(b"x")
        ((key, events),) = finishes(selector.select)
        assert (key.data, events) == ("data", selectors.EVENT_READ)


@case
def server_stop():
    gate = Event()
    server = StreamServer(("127.0.0.1", 0), lambda connection, address: gate.wait(), spawn=Pool(1))
    server.start()
    with socket.create_connection(("127.0.0.1", server.server_port)):
        while not len(server.pool):
            gevent.sleep(0.001)
        yield lambda: server.stop(timeout=1000)
        gate.set()
        finishes(server.pool.join)
        finishes(server.stop)
        assert not server.started


@case
def serve_forever():
    server = StreamServer(("127.0.0.1", 0), lambda connection, address: connection.sendall(b"x"))
    yield server.serve_forever
    assert not server.started
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.server_port)).close()


@case
def thread_lock_acquire():
    lock = gevent.thread.allocate_lock()
    lock.acquire()
    yield lock.acquire
    lock.release()
    assert finishes(lock.acquire, False) is True
    lock.release()


@ours_case("the real gevent has no task groups")
def task_group_exit():
    ended = []

    def child():
        try:
            gevent.sleep(1000)
        finally:
            ended.append(True)

    def run():
        with gevent.TaskGroup() as group:
            group.spawn(child)

    yield run
    assert ended


@case
def idle():
    # A busy loop is never idle.
    def yield_for_ever():
        while True:
            gevent.sleep(0)

    busy = gevent.spawn(yield_for_ever)
    yield gevent.idle
    busy.kill()
    finishes(gevent.idle)


def refuse(gate):
    """Wait for the event `gate`, whoever kills."""
    while not gate.is_set():
        with contextlib.suppress(gevent.GreenletExit):
            gate.wait()


@case
def killall():
    gate = Event()
    refusing = [gevent.spawn(refuse, gate) for _ in range(2)]
    gevent.sleep(0)
    yield lambda: gevent.killall(refusing)
    gate.set()
    finishes(gevent.joinall, refusing)


@case
def with_timeout():
    event = Event()
    yield lambda: gevent.with_timeout(1000, event.wait)
    event.set()
    assert finishes(gevent.with_timeout, 1000, event.wait) is True


@case
def greenlet_context():
    ended = Event()

    def member():
        try:
            gevent.sleep(1000)
        finally:
            ended.set()

    def run():
        with gevent.spawn(member):
            pass

    yield run
    assert finishes(ended.wait) is True


@case
def async_result_result():
    result = AsyncResult()
    yield result.result
    result.set("value")
    assert finishes(result.result) == "value"


@case
def rlock_with():
    lock = RLock()
    gate = Event()

    def hold():
        with lock:
            gate.wait()

    holder = gevent.spawn(hold)
    gevent.sleep(0)

    def enter():
        with lock:
            raise AssertionError("entered")

    yield enter
    gate.set()
    holder.join()
    assert finishes(lock.acquire, False) is True


@case
def group_map():
    group = Group()
    gate = Event()
    yield lambda: group.map(lambda number: gate.wait(), range(3))
    gate.set()
    finishes(group.join)
    assert len(group) == 0


@case
def group_kill():
    gate = Event()
    group = Group()
    group.spawn(refuse, gate)
    gevent.sleep(0)
    yield group.kill
    gate.set()
    finishes(group.join)
    assert len(group) == 0


@case
def thread_pool_imap():
    with busy_thread_pool() as pool:
        yield lambda: list(pool.imap(str, [1, 2]))
    assert finishes(lambda: list(pool.imap(str, [3, 4]))) == ["3", "4"]
    pool.kill()


@case
def socket_recvfrom_into():
    buffer = bytearray(4)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield lambda: sock.recvfrom_into(buffer)
        sock.sendto(b"x", sock.getsockname())
        assert finishes(sock.recvfrom_into, buffer) == (1, sock.getsockname())


@case
def socket_recvmsg():
    a, b = socket.socketpair()
    with a, b:
        yield lambda: a.recvmsg(10)
        b.sendall(b"x")
        assert finishes(a.recvmsg, 10)[0] == b"x"


@case
def socket_recvmsg_into():
    a, b = socket.socketpair()
    buffer = bytearray(4)
    with a, b:
        yield lambda: a.recvmsg_into([buffer])
        b.sendall(b"x")
        assert finishes(a.recvmsg_into, [buffer])[0] == 1


@case
def socket_sendmsg():
    a, b = socket.socketpair()
    with a, b:
        sent = fill(a)
        yield lambda: a.sendmsg([b"interrupted"])
        while sent:
            sent -= len(b.recv(min(sent, 65536)))
        assert finishes(a.sendmsg, [b"next"]) == 4
        assert finishes(b.recv, 100) == b"next"


@case
def makefile_readline():
    a, b = socket.socketpair()
    with a, b, a.makefile("rb") as file:
        yield file.readline
        b.sendall(b"line\n")
        assert finishes(file.readline) == b"line\n"


@case
def file_object_write():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 65536)
    with FileObject(writing, "wb", buffering=0) as writer:
        yield lambda: writer.write(b"interrupted")
        os.read(reading, 1 << 20)
        assert finishes(writer.write, b"next") == 4
    os.close(reading)


@case
def subprocess_run():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield lambda: subprocess.run(["cat"], stdin=process.stdout)
        process.stdin.close()
        assert finishes(process.wait) == 0


@case
def wait_for_a_process():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield lambda: gevent.wait([process])
        process.stdin.close()
        assert finishes(gevent.wait, [process]) == [process]


@case
def executor_shutdown():
    executor = ThreadPoolExecutor(1)
    gate = _thread.allocate_lock()
    gate.acquire()
    future = executor.submit(gate.acquire)
    try:
        yield executor.shutdown
    finally:
        gate.release()
    assert finishes(future.result) is True
    finishes(executor.shutdown)


class Interrupted(Exception):
    """What the tests throw."""


@pytest.mark.parametrize("name", NAMES)
def test_kill_ends_the_call_and_leaves_the_object_usable(name):
    with CASES[name]() as call:
        blocked = gevent.spawn(call)
        gevent.sleep(0)
        gevent.sleep(0)
        assert not blocked.ready(), "the call did not block"
        with gevent.Timeout(5):
            blocked.kill()
        assert blocked.dead
        assert isinstance(blocked.value, gevent.GreenletExit)
        reference = weakref.ref(blocked)
        del blocked
        gevent.sleep(0)
        gc.collect()
        assert reference() is None, "something still refers to the killed waiter"


@pytest.mark.parametrize("name", NAMES)
def test_kill_with_an_exception_raises_it_at_the_call(name):
    with CASES[name]() as call:
        def run():
            try:
                call()
            except Interrupted:
                return "caught"

        blocked = gevent.spawn(run)
        gevent.sleep(0)
        gevent.sleep(0)
        with gevent.Timeout(5):
            blocked.kill(Interrupted)
        assert blocked.value == "caught"


@pytest.mark.parametrize("name", NAMES)
def test_timeout_ends_the_call_and_leaves_the_object_usable(name):
    with CASES[name]() as call:
        def run():
            with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.005) as timeout:
                call()
            return caught.value is timeout

        with gevent.Timeout(5):
            assert gevent.spawn(run).get() is True


@pytest.mark.parametrize("name", NAMES)
def test_timeout_at_the_main_greenlet_ends_the_call(name):
    with CASES[name]() as call:
        with pytest.raises(Interrupted), gevent.Timeout(0.005, Interrupted):
            call()


def test_hub_join_is_ended_by_its_timeout_alone():
    sleeper = gevent.spawn(gevent.sleep, 1000)
    assert gevent.get_hub().join(timeout=0.005) is False
    assert not sleeper.dead
    sleeper.kill()


def test_item_handed_to_a_getter_that_is_killed_at_once_is_not_lost():
    queue = Queue()
    getter = gevent.spawn(queue.get)
    gevent.sleep(0)
    queue.put("item")
    getter.kill(block=False)
    gevent.sleep(0)
    gevent.sleep(0)
    if isinstance(getter.value, gevent.GreenletExit):
        assert queue.get(timeout=1) == "item"
    else:
        assert getter.value == "item"
    assert queue.empty()


def test_permit_released_to_an_acquirer_that_is_killed_at_once_is_not_leaked():
    semaphore = Semaphore(0)

    def run():
        with semaphore:
            pass

    acquirer = gevent.spawn(run)
    gevent.sleep(0)
    semaphore.release()
    acquirer.kill()
    gevent.sleep(0)
    assert semaphore.counter == 1


def test_kill_while_a_timeout_is_pending_leaves_no_timer():
    def run():
        with gevent.Timeout(0.01):
            gevent.sleep(1000)

    killed = gevent.spawn(run)
    gevent.sleep(0)
    killed.kill()
    gevent.sleep(0.03)
    assert isinstance(killed.value, gevent.GreenletExit)


def test_many_interrupted_waiters_leave_the_wake_up_to_the_one_that_remains():
    semaphore = Semaphore(0)
    waiters = [gevent.spawn(semaphore.acquire) for _ in range(100)]
    gevent.sleep(0)
    gevent.killall(waiters[:50] + waiters[51:])
    semaphore.release()
    assert waiters[50].get(timeout=5) is True
    assert semaphore.counter == 0


PATCHED = {
    "condition": """
        condition = threading.Condition()
        def call():
            with condition:
                condition.wait()
        def prove():
            waiter = gevent.spawn(call)
            gevent.sleep(0)
            with condition:
                assert len(condition._waiters) == 1
                condition.notify()
            waiter.join()
    """,
    "condition_relock": """
        condition = threading.Condition()
        def call():
            with condition:
                waiting.append(1)
                condition.wait()
        def notify_and_hold():
            with condition:
                condition.notify_all()
                gevent.sleep(0.001)
        waiting = []
        def prove():
            waiter = gevent.spawn(call)
            gevent.sleep(0)
            holder = gevent.spawn(notify_and_hold)
            gevent.sleep(0)
            waiter.kill()
            holder.join()
            assert condition.acquire(blocking=False)
            condition.release()
    """,
    "event": """
        event = threading.Event()
        call = event.wait
        def prove():
            event.set()
            assert event.wait()
    """,
    "semaphore": """
        semaphore = threading.Semaphore(0)
        call = semaphore.acquire
        def prove():
            semaphore.release()
            assert semaphore.acquire()
            assert not semaphore.acquire(blocking=False)
    """,
    "lock": """
        lock = threading.Lock()
        lock.acquire()
        call = lock.acquire
        def prove():
            lock.release()
            assert lock.acquire()
    """,
    "thread_join": """
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        call = thread.join
        def prove():
            gate.set()
            thread.join()
            assert not thread.is_alive()
    """,
    "queue": """
        items = queue.Queue()
        call = items.get
        def prove():
            items.put("item")
            assert items.get() == "item"
            assert items.empty()
    """,
    "future": """
        executor = concurrent.futures.ThreadPoolExecutor(1)
        gate = threading.Event()
        future = executor.submit(gate.wait)
        call = future.result
        def prove():
            gate.set()
            assert future.result() is True
            assert executor.submit(str, "next").result() == "next"
            executor.shutdown()
    """,
    "sleep": """
        call = lambda: time.sleep(1000)
        def prove():
            time.sleep(0)
    """,
    "waitpid": """
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(writing)
            os.read(reading, 1)
            os._exit(7)
        call = lambda: os.waitpid(pid, 0)
        def prove():
            os.close(writing)
            assert os.waitpid(pid, 0) == (pid, 7 << 8)
    """,
}


ONLY_OURS_PATCHED = {
    "thread_join": "CPython's Thread.join takes a thread for ended when an exception ends the wait (bpo-45274)",
    "waitpid": "the real gevent's waitpid waits for ever after one that was ended before",
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.ours_only(ONLY_OURS_PATCHED[name])] if name in ONLY_OURS_PATCHED else [])
    for name in PATCHED
])
def test_calls_of_the_patched_standard_library_can_be_ended(name):
    run_script("""
        import sys
        from gevent import monkey
        monkey.patch_all()
        import concurrent.futures, gevent, os, queue, textwrap, threading, time
        exec(textwrap.dedent(sys.argv[1]))
        with gevent.Timeout(10):
            for _ in range(2):
                blocked = gevent.spawn(call)
                gevent.sleep(0.002)
                assert not blocked.ready()
                blocked.kill()
                assert isinstance(blocked.value, gevent.GreenletExit), blocked.exception
                try:
                    with gevent.Timeout(0.002) as timeout:
                        call()
                except gevent.Timeout as caught:
                    assert caught is timeout
                else:
                    raise AssertionError("not ended")
            prove()
    """, PATCHED[name])
