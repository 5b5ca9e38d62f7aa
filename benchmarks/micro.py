"""Micro-benchmarks of gevent's API, for any implementation of it.

usage: python micro.py [NAME ...]

Prints one JSON object, ``{name: operations per second}``. Each figure is the best of three repeats, so that a noisy
neighbour costs less. Compare two implementations with pair.py, which runs them in turns: figures of different minutes
say little.
"""

import json
import sys
import time

import gevent
from gevent import event, lock, pool, queue, socket
from gevent.local import local
from gevent.server import StreamServer
from gevent.timeout import Timeout

BENCHMARKS = {}
REPEATS = 3


def benchmark(count):
    """Register a function that does its operation *count* times and returns how many it did."""

    def register(function):
        BENCHMARKS[function.__name__] = (function, count)
        return function

    return register


@benchmark(200_000)
def switch_raw(count):
    """`greenlet.switch()` to and fro between two raw greenlets; two switches a round."""
    main = gevent.getcurrent()
    raw = next(base for base in type(main).__mro__ if base.__name__ == "greenlet")

    def body():
        switch = main.switch
        while True:
            switch()

    other = raw(body)
    for _ in range(count):
        other.switch()
    return count * 2


@benchmark(100_000)
def sleep0(count):
    """`sleep(0)` by ten greenlets: a turn through the hub."""

    def body():
        for _ in range(count // 10):
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(body) for _ in range(10)])
    return count


@benchmark(50_000)
def spawn_join(count):
    """Start greenlets that do nothing, all at once, and wait for all."""

    def body():
        pass

    gevent.joinall([gevent.spawn(body) for _ in range(count)])
    return count


@benchmark(30_000)
def spawn_get(count):
    """Start a greenlet and wait for its value, one after the other."""

    def body(value):
        return value

    for index in range(count):
        gevent.spawn(body, index).get()
    return count


@benchmark(50_000)
def spawn_raw(count):
    """Start raw greenlets, all at once; the last one sets an event."""
    done = event.Event()
    left = [count]

    def body():
        left[0] -= 1
        if not left[0]:
            done.set()

    for _ in range(count):
        gevent.spawn_raw(body)
    done.wait()
    return count


@benchmark(100_000)
def queue_pingpong(count):
    """An item to another greenlet and one back, through two queues."""
    there, back = queue.Queue(), queue.Queue()

    def echo():
        for _ in range(count):
            back.put(there.get())

    other = gevent.spawn(echo)
    for index in range(count):
        there.put(index)
        back.get()
    other.join()
    return count


@benchmark(200_000)
def queue_stream(count):
    """Items through a queue with room for a hundred: a switch in a hundred items."""
    items = queue.Queue(maxsize=100)

    def producer():
        for index in range(count):
            items.put(index)
        items.put(None)

    gevent.spawn(producer)
    while items.get() is not None:
        pass
    return count


@benchmark(50_000)
def event_set_wait(count):
    """Two greenlets that wake each other by two events."""
    there, back = event.Event(), event.Event()

    def answer():
        for _ in range(count):
            there.wait()
            there.clear()
            back.set()

    other = gevent.spawn(answer)
    for _ in range(count):
        there.set()
        back.wait()
        back.clear()
    other.join()
    return count


@benchmark(50_000)
def async_result(count):
    """A result that a raw greenlet sets, waited for."""
    for index in range(count):
        result = event.AsyncResult()
        gevent.spawn_raw(result.set, index)
        result.get()
    return count


@benchmark(300_000)
def semaphore_uncontended(count):
    """Acquire and release a semaphore that nobody else wants: no switch."""
    semaphore = lock.Semaphore(1)
    for _ in range(count):
        semaphore.acquire()
        semaphore.release()
    return count


@benchmark(20_000)
def semaphore_contended(count):
    """Twenty greenlets that take turns at one semaphore and yield while they hold it."""
    semaphore = lock.Semaphore(1)

    def body():
        for _ in range(count // 20):
            with semaphore:
                gevent.sleep(0)

    gevent.joinall([gevent.spawn(body) for _ in range(20)])
    return count


@benchmark(200_000)
def timeout_start_cancel(count):
    """A timeout that never fires."""
    for _ in range(count):
        with Timeout(10):
            pass
    return count


@benchmark(20_000)
def timers_many(count):
    """Greenlets asleep for different times up to 0.2 s, which are part of what is measured."""

    def body(index):
        gevent.sleep((index * 7919 % 1000) / 5000.0)

    gevent.joinall([gevent.spawn(body, index) for index in range(count)])
    return count


@benchmark(20_000)
def pool_map(count):
    """`Pool.map` of a function that yields once."""
    pool.Pool(100).map(lambda _: gevent.sleep(0), range(count))
    return count


@benchmark(20_000)
def imap_unordered(count):
    """`Pool.imap_unordered` of a function that does nothing."""
    for _ in pool.Pool(100).imap_unordered(lambda value: value, range(count)):
        pass
    return count


@benchmark(5_000)
def threadpool_apply(count):
    """A call in a thread of the pool, waited for."""
    threads = gevent.get_hub().threadpool
    for index in range(count):
        threads.apply(abs, (index,))
    return count


@benchmark(40_000)
def socketpair_pingpong(count):
    """Four bytes to another greenlet and back, through a pair of sockets."""
    here, there = socket.socketpair()

    def echo():
        while data := there.recv(100):
            there.sendall(data)

    other = gevent.spawn(echo)
    for _ in range(count):
        here.sendall(b"ping")
        here.recv(100)
    here.close()
    other.join()
    there.close()
    return count


@benchmark(300)
def sendall_throughput(count):
    """MiB a second by `sendall` of 1 MiB each, through a pair of sockets. Mostly the kernel's copying."""
    here, there = socket.socketpair()
    data = b"x" * (1 << 20)

    def sink():
        while there.recv(65536):
            pass

    other = gevent.spawn(sink)
    for _ in range(count):
        here.sendall(data)
    here.close()
    other.join()
    there.close()
    return count


@benchmark(2_000)
def connect_accept(count):
    """Connections over loopback to a `StreamServer` that sends a byte."""
    server = StreamServer(("127.0.0.1", 0), lambda client, address: client.sendall(b"x"))
    server.start()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        connection.recv(1)
        connection.close()
    server.stop()
    return count


@benchmark(400_000)
def local_attribute(count):
    """Read and write an attribute of a greenlet-local object."""
    values = local()
    values.x = 0
    for _ in range(count):
        values.x += 1
    return count


def main():
    """Run the named benchmarks, or all."""
    rates = {}
    for name in sys.argv[1:] or BENCHMARKS:
        function, count = BENCHMARKS[name]
        best = 0.0
        for _ in range(REPEATS):
            began = time.perf_counter()
            done = function(count)
            best = max(best, done / (time.perf_counter() - began))
        rates[name] = best
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
