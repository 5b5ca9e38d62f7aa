"""What type checkers make of the calls that programs use most. `make check-types` checks it; it is never run."""
import asyncio
from collections.abc import Iterator
from typing import Any, assert_type

import gevent
import gevent.pool
import gevent.socket
from gevent import CancelScope, Greenlet, Timeout, aio
from gevent.event import AsyncResult, Event
from gevent.local import local
from gevent.lock import BoundedSemaphore, RLock, Semaphore
from gevent.pool import Group, Pool
from gevent.pywsgi import WSGIServer
from gevent.queue import Channel, JoinableQueue, LifoQueue, PriorityQueue, Queue, SimpleQueue
from gevent.server import StreamServer
from gevent.subprocess import PIPE, Popen
from gevent.threadpool import ThreadPool


def length(text: str, factor: int = 1) -> int:
    return len(text) * factor


def nothing() -> None:
    pass


# -- greenlets --

assert_type(gevent.spawn(length, "x").get(), int)
assert_type(gevent.spawn(length, "x", factor=2).get(timeout=1.0), int)
assert_type(gevent.spawn_later(0.5, length, "x").get(), int)
assert_type(gevent.spawn(nothing), Greenlet[[], None])
assert_type(Greenlet(length, "x").value, int | None)
assert_type(Greenlet.spawn(length, "x").exception, BaseException | None)
assert_type(gevent.spawn(lambda: "value").get(), str)

any_greenlet: Greenlet[..., int] = gevent.spawn(length, "x")
assert_type(any_greenlet.successful(), bool)
assert_type(gevent.joinall([gevent.spawn(nothing)], timeout=1), list[Greenlet[[], None]])
assert_type(gevent.wait(timeout=1), bool)
assert_type(gevent.wait([Event()]), list[Event])
for ready in gevent.iwait([any_greenlet]):
    assert_type(ready.get(), int)
gevent.killall([any_greenlet], block=False)
gevent.kill(any_greenlet)

gevent.spawn(length)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
gevent.spawn(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
gevent.spawn(length, "x", size=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
gevent.spawn("length")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Counter(Greenlet[[], None]):
    """A greenlet by inheritance."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def run(self) -> None:
        gevent.sleep(self.limit)


counter = Counter(3)
counter.start()
assert_type(counter.limit, int)

# -- time --

with Timeout(1.5, False) as timeout:
    assert_type(timeout, Timeout)
    assert_type(timeout.seconds, float | None)
assert_type(gevent.with_timeout(1, length, "x"), int | Any)
gevent.sleep(0.1)

# -- groups and pools --

pool = Pool(10)
group = Group()
assert_type(pool.spawn(length, "x").get(), int)
assert_type(pool.map(length, ["x"]), list[int])
assert_type(pool.map_async(length, ["x"]).get(), list[int])
assert_type(pool.apply(length, ("x",)), int)
assert_type(pool.apply_async(length, ("x",)).get(), int)
assert_type(pool.imap(length, ["x"], maxsize=2), Iterator[int])
assert_type(group.imap_unordered(length, ["x"]), Iterator[int])
assert_type(pool.join(timeout=1), bool)
assert_type(ThreadPool(2).spawn(length, "x").get(), int)
assert_type(ThreadPool(2).apply(length, ("x",)), int)
pool.spawn(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
pool.map(length, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# -- what greenlets wait for --

result: AsyncResult[int] = AsyncResult()
result.set(1)
assert_type(result.get(timeout=1), int)
assert_type(result.wait(), int | None)
result.set("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
gevent.spawn(length, "x").link(result)
assert_type(Event().wait(1), bool)
assert_type(Event().is_set(), bool)

queue: Queue[str] = Queue(maxsize=3)
queue.put("x", timeout=1.0)
queue.put(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(queue.get(), str)
assert_type(queue.get_nowait(), str)
assert_type(next(queue), str)
assert_type([item for item in queue], list[str])
assert_type(JoinableQueue[int]().get(), int)
assert_type(PriorityQueue[tuple[int, str]]().get(), tuple[int, str])
assert_type(LifoQueue[bytes]().get(), bytes)
assert_type(SimpleQueue[bytes]().peek(), bytes)
assert_type(Channel[int]().get(), int)
assert_type(queue.join(timeout=1), bool)

with Semaphore(2), BoundedSemaphore(1), RLock():
    pass
assert_type(Semaphore().acquire(timeout=1.0), bool)


class Request(local):
    """Attributes of each greenlet."""

    user: str = ""


assert_type(Request().user, str)

# -- task groups and scopes --

with gevent.TaskGroup() as tasks:
    assert_type(tasks.spawn(length, "x").get(), int)
    tasks.create_task(length)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(tasks.cancel_scope, CancelScope)
with gevent.move_on_after(1) as scope:
    assert_type(scope.cancelled_caught, bool)
    scope.deadline += 1
with gevent.fail_after(1, shield=True) as scope:
    assert_type(scope, CancelScope)

# -- asyncio --


async def read(path: str) -> bytes:
    assert_type(await aio.wait(gevent.spawn(length, "x")), int)
    assert_type(await aio.wait(result), int)
    assert_type(await aio.to_greenlet(length, path, factor=2), int)
    assert_type(aio.as_future(any_greenlet), asyncio.Future[int])
    await aio.to_greenlet(length, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return b""


loop = aio.EventLoop()
assert_type(aio.run(read("x")), bytes)
assert_type(aio.run_coroutine(read("x"), loop), bytes)
assert_type(gevent.spawn(aio.run, read("x")).get(), bytes)
aio.run(length)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
    assert_type(runner.run(read("x")), bytes)

# -- servers and processes --


def handle(sock: gevent.socket.socket, address: tuple[str, int]) -> None:
    assert_type(sock.recv(100), bytes)
    sock.sendall(b"x")


server = StreamServer(("127.0.0.1", 0), handle, spawn=pool)
server.start()
server.stop(timeout=1)
WSGIServer(("127.0.0.1", 0), lambda environ, start_response: [b""]).serve_forever()
with Popen(["true"], stdout=PIPE) as process:
    assert_type(process.wait(), int | None)
