"""Nothing grows: memory, reference counts and descriptors after very many operations, each in its own process."""
import textwrap

import pytest
from implementation import run_script

MEASURE = """
import gc, os, resource
import gevent

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def measure(operation, rounds, blocks=200, growth=2 << 20):
    '''Run `operation(rounds)` once to warm up, then again, and compare the allocated blocks and the memory.'''
    operation(rounds // 10 or 1)
    operation(rounds // 10 or 1)
    gc.collect()
    before = sys.getallocatedblocks(), resident(), len(os.listdir("/proc/self/fd"))
    operation(rounds)
    gc.collect()
    after = sys.getallocatedblocks(), resident(), len(os.listdir("/proc/self/fd"))
    assert after[0] - before[0] < blocks, ("blocks", before, after)
    assert after[1] - before[1] < growth, ("bytes", before, after)
    assert after[2] == before[2], ("descriptors", before, after)
"""

OPERATIONS = {
    "a million raw switches": """
        def operation(rounds):
            main = lowlevel.getcurrent()
            def run():
                while True:
                    main.switch()
            g = lowlevel.greenlet(run)
            for _ in range(rounds):
                g.switch()
            g.throw()
        measure(operation, 500_000)
    """,
    "containers freed in 100,000 greenlets, ended and killed": """
        from gevent.event import Event
        gate = Event()
        class Node:
            def __init__(self, tail):
                self.tail = tail
        def run(ends):
            # Cells, tuples, dicts, instances and a closure, nested deeper than what is freed without the trashcan.
            nested, node = (), None
            for _ in range(100):
                nested = ([{"inside": nested}],)
                node = Node(node)
            if not ends:
                gate.wait()
            return lambda: (nested, node)
        def operation(rounds):
            for _ in range(rounds // 100):
                jobs = [gevent.spawn(run, number % 2) for number in range(100)]
                gevent.sleep(0)
                gevent.killall(jobs)
        measure(operation, 100_000)
    """,
    "values through switches": """
        thing = object()
        def operation(rounds):
            main = lowlevel.getcurrent()
            def run(value):
                while True:
                    value = main.switch(value)
            g = lowlevel.greenlet(run)
            for _ in range(rounds):
                assert g.switch(thing) is thing
                g.switch(thing, thing)
                g.switch(thing, key=thing)
            g.throw()
        count = sys.getrefcount(thing)
        measure(operation, 20_000)
        assert sys.getrefcount(thing) == count
    """,
    "sleeps of zero": """
        def operation(rounds):
            for _ in range(rounds):
                gevent.sleep(0)
        measure(operation, 50_000)
    """,
    "spawn and join": """
        thing = object()
        def operation(rounds):
            for _ in range(rounds):
                gevent.spawn(lambda value: value, thing).get()
        count = sys.getrefcount(thing)
        measure(operation, 20_000)
        gevent.sleep(0)     # the hub lets go of the last one
        gevent.sleep(0)
        assert sys.getrefcount(thing) == count, (sys.getrefcount(thing), count)
    """,
    "exceptions and throws": """
        def operation(rounds):
            def run():
                while True:
                    try:
                        main.switch()
                    except ValueError:
                        pass
            main = lowlevel.getcurrent()
            for _ in range(rounds // 10):
                g = lowlevel.greenlet(run)
                g.switch()
                for _ in range(10):
                    g.throw(ValueError("text"))
                g.throw()
        measure(operation, 20_000)
    """,
    "kills": """
        def operation(rounds):
            for _ in range(rounds // 10):
                jobs = [gevent.spawn(gevent.sleep, 1000) for _ in range(10)]
                gevent.sleep(0)
                gevent.killall(jobs)
        measure(operation, 10_000)
    """,
    "timeouts": """
        def operation(rounds):
            for number in range(rounds):
                with gevent.Timeout(1000):
                    pass
                if number % 20 == 0:
                    with gevent.Timeout(0.0001, False):
                        gevent.sleep(1000)
        measure(operation, 10_000)
    """,
    "failing greenlets": """
        gevent.get_hub().exception_stream = None
        def operation(rounds):
            for _ in range(rounds):
                gevent.spawn(lambda: 1 / 0).join()
        measure(operation, 5_000)
    """,
    "events, locks and queues": """
        from gevent.event import AsyncResult, Event
        from gevent.lock import RLock, Semaphore
        from gevent.queue import Channel, Queue
        def operation(rounds):
            for _ in range(rounds):
                event, result, queue, semaphore = Event(), AsyncResult(), Queue(1), Semaphore(0)
                channel, lock = Channel(), RLock()
                waiters = [gevent.spawn(wait) for wait in (
                    event.wait, result.get, queue.get, semaphore.acquire, channel.get)]
                gevent.sleep(0)
                with lock:
                    event.set()
                    result.set(1)
                    queue.put(1)
                    semaphore.release()
                    channel.put(1)
                gevent.joinall(waiters, raise_error=True)
        measure(operation, 2_000)
    """,
    "sockets": """
        from gevent import socket
        def operation(rounds):
            for _ in range(rounds):
                a, b = socket.socketpair()
                waiter = gevent.spawn(a.recv, 10)
                gevent.sleep(0)
                b.sendall(b"x")
                assert waiter.get() == b"x"
                a.close()
                b.close()
        measure(operation, 3_000)
    """,
    "locals and contexts": """
        import contextvars
        from gevent.local import local
        storage, variable = local(), contextvars.ContextVar("variable")
        def run():
            storage.value = object()
            variable.set(object())
            gevent.sleep(0)
        def operation(rounds):
            for _ in range(rounds // 10):
                gevent.joinall([gevent.spawn(run) for _ in range(10)], raise_error=True)
        measure(operation, 10_000)
    """,
    "frames of suspended greenlets": """
        def operation(rounds):
            main = lowlevel.getcurrent()
            def run(depth):
                run(depth - 1) if depth else main.switch()
            for _ in range(rounds):
                g = lowlevel.greenlet(run)
                g.switch(20)
                frames = []
                frame = g.gr_frame
                while frame is not None:
                    frames.append(frame)
                    frame = frame.f_back
                assert len(frames) == 21
                g.switch()
        measure(operation, 3_000)
    """,
}


TLS = """
    from gevent import socket, ssl
    from gevent.server import StreamServer

    keyfile, certfile = sys.argv[1:]
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certfile, keyfile)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def handle(connection, address):
        # Else the answer waits for the acknowledgement of the session tickets, 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        running.append(connection)
        while data := connection.recv(100):
            connection.sendall(data)
        running.remove(connection)

    running = []
    server = StreamServer(("127.0.0.1", 0), handle, ssl_context=server_context)
    server.start()
    ENDS = {
        "closed": lambda connection: connection.close(),
        "unwrapped": lambda connection: connection.unwrap().close(),
    }

    def operation(rounds):
        for _ in range(rounds):
            connection = context.wrap_socket(socket.create_connection(server.address, timeout=10))
            connection.sendall(b"ping")
            assert connection.recv(100) == b"ping"
            ENDS[END](connection)
            del connection
        # The last handler sees the end, and closes.
        while running:
            gevent.sleep(0.001)
        gevent.sleep(0.001)

    measure(operation, 400)
    left = [thing for thing in gc.get_objects() if isinstance(thing, ssl.SSLSocket)]
    assert not left, left
    server.stop()
"""


# Requests of one kind by ten clients at once, each on connections of its own.
REQUESTS = r"""
import base64, random
from gevent import socket, ssl
from gevent.pywsgi import WSGIServer

kind, key, certificate = sys.argv[1:]
randomness = random.Random(1)

def application(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is not None:
        websocket.accept()
        for message in websocket:
            websocket.send(message)
        return []
    if environ["PATH_INFO"] == "/fails":
        raise ValueError("on purpose")
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body] if environ["PATH_INFO"] == "/" else iter([b"streamed", body])

files = {"keyfile": key, "certfile": certificate} if kind == "TLS" else {}
# Those who abort connect many times before the loop polls: beyond the backlog the system lets them wait for a second.
server = WSGIServer(("127.0.0.1", 0), application, log=None, error_log=None, backlog=4096, **files)
server.start()
gevent.get_hub().exception_stream = None
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

def connect():
    sock = socket.create_connection(server.address, timeout=30)
    return context.wrap_socket(sock) if kind == "TLS" else sock

def head(path, *fields):
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: t", *fields, "", ""]).encode()

CHUNKED = head("/stream", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n"
KEPT = head("/", "Content-Length: 4") + b"body"
UPGRADE = head("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Extensions: permessage-deflate",
               "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()).replace(b"POST", b"GET", 1)
ONCE = {
    "closed": head("/", "Connection: close"), "malformed": head("/", "a b: c"),
    "failing": head("/fails", "Connection: close"),
}

def client(rounds):
    if kind in ONCE:
        for _ in range(rounds):
            with connect() as sock:
                sock.sendall(ONCE[kind])
                while sock.recv(10000):
                    pass
    elif kind == "aborted":
        for _ in range(rounds):
            with connect() as sock:
                request = randomness.choice([CHUNKED, KEPT, UPGRADE])
                sock.sendall(request[:randomness.randrange(len(request) + 1)])
                if randomness.random() < 0.5:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                gevent.sleep(0)
    elif kind == "WebSocket":
        for _ in range(rounds // 10 or 1):
            with connect() as sock, sock.makefile("rb") as file:
                sock.sendall(UPGRADE)
                while file.readline() != b"\r\n":
                    pass
                for _ in range(10):
                    sock.sendall(b"\x81\x82\0\0\0\0hi")
                    assert file.read(2)[0] & 0x8f == 0x81
                    file.read(2)
    else:
        end = b"0\r\n\r\n" if kind == "chunked" else b"\r\n\r\nbody"
        for _ in range(rounds // 10 or 1):
            with connect() as sock:
                for _ in range(10):
                    sock.sendall(CHUNKED if kind == "chunked" else KEPT)
                    answer = b""
                    while not answer.endswith(end):
                        answer += sock.recv(10000)

def operation(rounds):
    gevent.joinall([gevent.spawn(client, rounds // 10) for _ in range(10)], raise_error=True)
    while len(server._service):
        gevent.sleep(0.001)

# What is counted goes up and down by some objects that wait for the collector or are kept for the next request.
measure(operation, 4000, blocks=2000)
"""


@pytest.mark.ours_only("of the real server, what is to be measured is not counted")
@pytest.mark.parametrize("kind", ["kept", "chunked", "closed", "malformed", "failing", "aborted", "WebSocket", "TLS"])
def test_nothing_grows_over_requests(kind, certificate):
    run_script(MEASURE + REQUESTS, kind, certificate["keyfile"], certificate["certfile"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_grows_over(name):
    run_script(MEASURE + textwrap.dedent(OPERATIONS[name]))


@pytest.mark.ours_only("of the real gevent some hundred blocks come and go, though not with the connections")
@pytest.mark.parametrize("end", ["closed", "unwrapped"])
def test_nothing_grows_over_tls_connections(end, certificate):
    script = MEASURE + f"END = {end!r}\n" + textwrap.dedent(TLS)
    run_script(script, certificate["keyfile"], certificate["certfile"])
