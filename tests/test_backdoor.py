"""`gevent.backdoor`: a prompt for whoever connects, by TCP or by a unix socket."""
import io
import sys

import gevent
import pytest
from gevent import socket
from gevent.backdoor import BackdoorServer

PROMPT = b">>> "


class Client:
    """A connection to a server of the tests, read as far as a prompt."""

    def __init__(self, server):
        if server.socket.family == socket.AF_UNIX:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(server.socket.getsockname())
        else:
            self.socket = socket.create_connection(("127.0.0.1", server.server_port))
        self.socket.settimeout(20)
        self.banner = self.read()

    def read(self, until=PROMPT):
        data = b""
        while not data.endswith(until):
            part = self.socket.recv(1)
            assert part, f"the connection ended after {data!r}"
            data += part
        return data.decode().replace("\r\n", "\n")

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        return self.read().removesuffix(">>> ")

    def leave(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        rest = self.socket.recv(100)
        self.socket.close()
        return rest


@pytest.fixture(params=["tcp", "unix"])
def start(request, tmp_path):
    servers = []

    def start(**arguments):
        listener = ("127.0.0.1", 0)
        if request.param == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "backdoor"))
            listener.listen()
        server = BackdoorServer(listener, **arguments)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def test_evaluates_what_it_is_sent(start):
    client = Client(start())
    assert client.ask("2 + 2") == "4\n"
    assert client.ask("print('to', 'you')") == "to you\n"
    assert client.leave("quit()") == b""


def test_shows_the_banner(start):
    client = Client(start(banner="Welcome, stranger"))
    assert client.banner.startswith("Welcome, stranger\n")
    client.leave("quit()")


def test_shows_pythons_banner_by_default(start):
    client = Client(start())
    assert client.banner.startswith(f"Python {sys.version.split()[0]}")
    client.leave("quit()")


def test_each_connection_has_its_own_names(start):
    server = start(locals={"given": "from outside"})
    one, other = Client(server), Client(server)
    assert one.ask("given") == "'from outside'\n"
    assert one.ask("own = 1; given = 2") == ""
    assert one.ask("given") == "2\n"
    assert other.ask("given") == "'from outside'\n"
    assert "NameError" in other.ask("own")
    assert one.leave("quit()") == other.leave("quit()") == b""


def test_shows_errors_with_their_traceback_and_goes_on(start):
    client = Client(start())
    answer = client.ask("1 / 0")
    assert answer.startswith("Traceback") and "ZeroDivisionError" in answer
    assert "SyntaxError" in client.ask("1 +")
    assert client.ask("'still here'") == "'still here'\n"
    client.leave("quit()")


def test_builtins_are_shown_as_a_module(start):
    client = Client(start())
    assert "module 'builtins'" in client.ask("locals()['__builtins__']")
    client.leave("quit()")


@pytest.mark.parametrize("line", ["quit()", "exit()", "import sys; sys.exit(3)", "raise SystemExit"])
def test_leaving_ends_the_connection_alone(start, line):
    server = start()
    assert Client(server).leave(line) == b""
    client = Client(server)
    assert client.ask("1") == "1\n"
    client.leave("quit()")


def test_other_greenlets_keep_their_streams_while_a_client_waits(start, monkeypatch):
    outside = io.StringIO()
    monkeypatch.setattr(sys, "stdout", outside)
    before = sys.stdin, sys.stdout, sys.stderr
    go = gevent.event.Event()

    def wait():
        print("before the switch")
        go.wait()
        print("after the switch")

    client = Client(start(locals={"wait": wait}))
    client.socket.sendall(b"wait()\r\n")
    assert client.read(b"\n") == "before the switch\n"
    print("of the other greenlet")
    go.set()
    assert client.read() == "after the switch\n>>> "
    client.leave("quit()")
    with gevent.Timeout(20):
        while sys.stdin is not before[0]:
            gevent.sleep(0.001)
    assert outside.getvalue() == "of the other greenlet\n"
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_exceptions_thrown_in_while_it_waits_are_caught_there(start):
    def wait():
        try:
            gevent.Timeout.start_new(0.001)
            gevent.sleep(20)
        except gevent.Timeout:
            print("timed out")

    client = Client(start(locals={"wait": wait}))
    assert client.ask("wait()") == "timed out\n"
    client.leave("quit()")


def test_input_reads_from_the_connection(start):
    client = Client(start())
    client.socket.sendall(b"word = input('which? ')\r\n")
    client.read(b"which? ")
    client.socket.sendall(b"this\r\n")
    client.read()
    assert client.ask("word.strip()") == "'this'\n"
    client.leave("quit()")


def test_many_clients_at_once(start):
    server = start()

    def run(number):
        client = Client(server)
        answer = client.ask(f"{number} * 2")
        client.leave("quit()")
        return answer

    jobs = [gevent.spawn(run, number) for number in range(10)]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value for job in jobs] == [f"{number * 2}\n" for number in range(10)]


def test_stop_ends_the_connections(start):
    server = start()
    client = Client(server)
    server.stop()
    assert client.socket.recv(100) == b""
    client.socket.close()


def test_a_client_that_goes_without_a_word_leaves_nothing(start):
    server = start()
    before = sys.stdout
    client = Client(server)
    client.socket.close()
    other = Client(server)
    assert other.ask("1") == "1\n"
    other.leave("quit()")
    server.stop()
    with gevent.Timeout(20):
        while sys.stdout is not before:
            gevent.sleep(0.001)
