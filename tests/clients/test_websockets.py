"""WebSocket servers of gevent-websocket and of Flask-SocketIO: on pywsgi, and in gunicorn's workers."""
import contextlib
import os
import socket
import sys
import textwrap
import threading

import pytest
import services
from implementation import run_script
from servers import accepts
from services import until
from web_clients import fetch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# Each message of `/meet` is answered when three connections have sent one; `/room` sends to all.
APPLICATION = """
    import threading
    from geventwebsocket import WebSocketError

    barrier = threading.Barrier(3)
    room, left = [], []

    def application(environ, start_response):
        socket = environ.get("wsgi.websocket")
        if socket is None:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"{len(room)} {len(left)}".encode()]
        path = environ["PATH_INFO"]
        if path == "/room":
            room.append(socket)
        try:
            while (message := socket.receive()) is not None:
                if path == "/meet":
                    barrier.wait(30)
                for other in (room if path == "/room" else [socket]):
                    other.send(message)
        except WebSocketError:
            pass
        finally:
            left.append(path)
        return []
"""

SERVER = """
    import sys
    from gevent import monkey; monkey.patch_all()
    from gevent.pywsgi import WSGIServer
    from geventwebsocket.handler import WebSocketHandler
    from its_app import application
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, handler_class=WebSocketHandler, log=None).serve_forever()
"""

COMMANDS = {
    "pywsgi": lambda port: ["its_server.py", str(port)],
    "gunicorn": lambda port: [
        "-m", "gunicorn", "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "-b", f"127.0.0.1:{port}",
        "--no-control-socket", "its_app:application",
    ],
}


@pytest.fixture(scope="module", params=COMMANDS)
def port(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "its_app.py").write_text(textwrap.dedent(APPLICATION), encoding="utf-8")
    (folder / "its_server.py").write_text(textwrap.dedent(SERVER), encoding="utf-8")
    port = services.free_port()
    command = [sys.executable, *COMMANDS[request.param](port)]
    with services.start(command, lambda: accepts(port), patience=40, end_within=40, cwd=folder) as process:
        yield port
    if request.param == "gunicorn":
        assert process.returncode == 0


def open_at(port, path):
    return connect(f"ws://127.0.0.1:{port}{path}", open_timeout=40, close_timeout=40, max_size=None, proxy=None)


def counts(port):
    """Return how many are in the room, and how many connections have ended, which plain HTTP tells."""
    status, body = fetch(port)
    assert status == 200
    return [int(word) for word in body.split()]


def test_connections_are_served_at_once(port):
    answers = {}

    def talk(word):
        with open_at(port, "/meet") as connection:
            for number in range(3):
                connection.send(f"{word} {number}")
                answers[word, number] = connection.recv(40)

    clients = [threading.Thread(target=talk, args=(word,)) for word in ("un", "deux", "trois \N{SNOWMAN}")]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(answers) == 9 and all(answer == f"{word} {number}" for (word, number), answer in answers.items())


def test_messages_of_any_size_come_back_in_order(port):
    messages = ["", b"", "x" * 125, b"\0" * 126, "\N{SNOWMAN}" * 30_000, os.urandom(3 << 20), *map(str, range(300))]
    with open_at(port, "/") as connection:
        for message in messages[:6]:
            connection.send(message)
            assert connection.recv(40) == message
        for message in messages[6:]:
            connection.send(message)
        assert [connection.recv(40) for _ in messages[6:]] == messages[6:]
        # A ping is answered while the application waits for a message.
        assert connection.ping().wait(40)


def test_a_message_reaches_all_and_the_end_of_one_the_application(port):
    before = counts(port)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(open_at(port, "/room")) for _ in range(5)]
        until(lambda: counts(port)[0] == before[0] + 5, "five in the room")
        connections[2].send("all")
        assert [connection.recv(40) for connection in connections] == ["all"] * 5
        # One goes without a word, the others politely.
        connections[0].socket.shutdown(socket.SHUT_RDWR)
        until(lambda: counts(port)[1] == before[1] + 1, "end of one")
        with pytest.raises(ConnectionClosed):
            connections[0].recv(40)
    until(lambda: counts(port)[1] == before[1] + 5, "end of five")


CHAT = """
    import threading
    from flask import Flask
    from flask_socketio import SocketIO, emit
    application = Flask(__name__)
    chat = SocketIO(application, async_mode="gevent")
    barrier = threading.Barrier(6)

    @chat.on("meet")
    def meet(word):
        barrier.wait(30)
        emit("news", word, broadcast=True)
        return word.upper()
"""


def test_flask_socketio_in_a_worker_of_gunicorn(tmp_path):
    (tmp_path / "chat.py").write_text(textwrap.dedent(CHAT), encoding="utf-8")
    port = services.free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "-b",
               f"127.0.0.1:{port}", "--no-control-socket", "chat:application"]
    with services.start(command, lambda: accepts(port), patience=40, end_within=40, cwd=tmp_path) as process:
        run_script("""
            from gevent import monkey; monkey.patch_all()
            import gevent, socketio
            from gevent.event import Event
            from gevent.queue import Queue
            def talk(transport, word):
                client, news = socketio.Client(), Queue()
                client.on("news", news.put)
                client.connect("http://127.0.0.1:" + sys.argv[1], transports=[transport], wait_timeout=30)
                connected.append(client)
                if len(connected) == 6:
                    everybody.set()
                everybody.wait()
                try:
                    assert client.transport() == transport
                    answer = client.call("meet", word, timeout=40)
                    return answer, sorted(news.get(timeout=40) for _ in range(6))
                finally:
                    client.disconnect()
            connected, everybody = [], Event()
            jobs = [gevent.spawn(talk, transport, transport[0] + word)
                    for transport in ("polling", "websocket") for word in "abc"]
            gevent.joinall(jobs, raise_error=True)
            everything = ["pa", "pb", "pc", "wa", "wb", "wc"]
            assert [job.value for job in jobs] == [(word.upper(), everything) for word in everything]
        """, port)
    assert process.returncode == 0


# What Flask-SocketIO and Flask-Sock use where gevent-websocket is not installed: it takes the socket from `wsgi.input`.
SIMPLE = """
    from gevent import monkey; monkey.patch_all()
    import sys, threading
    for name in ("geventwebsocket", "geventwebsocket.handler"):
        sys.modules[name] = None   # not installed
    import simple_websocket
    from flask import Flask
    from flask_socketio import SocketIO
    application = Flask(__name__)
    chat = SocketIO(application, async_mode="gevent")
    barrier = threading.Barrier(6)

    @chat.on("meet")
    def meet(word):
        barrier.wait(30)
        return word.upper()

    def with_echo(environ, start_response, rest=application.wsgi_app):
        if environ["PATH_INFO"] != "/echo":
            return rest(environ, start_response)
        connection = simple_websocket.Server.accept(environ)
        try:
            while True:
                connection.send(connection.receive())
        except simple_websocket.ConnectionClosed:
            return []

    application.wsgi_app = with_echo
    chat.run(application, host="127.0.0.1", port=int(sys.argv[1]),
             **dict(zip(("certfile", "keyfile"), sys.argv[2:])))
"""


@pytest.mark.parametrize("is_tls", [False, True])
def test_simple_websocket_finds_the_connection(tmp_path, certificate, is_tls):
    program = tmp_path / "chat.py"
    program.write_text(textwrap.dedent(SIMPLE), encoding="utf-8")
    port = services.free_port()
    paths = [certificate["certfile"], certificate["keyfile"]] if is_tls else []
    with services.start([sys.executable, str(program), str(port), *paths], lambda: accepts(port), patience=40):
        run_script("""
            from gevent import monkey; monkey.patch_all()
            import gevent, requests, socketio, ssl, websocket
            port, certificate = sys.argv[1], (*sys.argv[2:], None)[0]
            secure = "s" if certificate else ""

            def talk(transport, word):
                session = requests.Session()
                session.verify, session.trust_env = certificate or True, False
                client = socketio.Client(http_session=session)
                client.connect(f"http{secure}://127.0.0.1:{port}", transports=[transport], wait_timeout=30)
                try:
                    assert client.transport() == transport
                    return client.call("meet", word, timeout=40)
                finally:
                    client.disconnect()

            jobs = [gevent.spawn(talk, transport, word) for transport in ("polling", "websocket") for word in "abc"]
            gevent.joinall(jobs, raise_error=True)
            assert [job.value for job in jobs] == ["A", "B", "C"] * 2
            connection = websocket.create_connection(
                f"ws{secure}://127.0.0.1:{port}/echo", timeout=40, sslopt={"ca_certs": certificate})
            for message in ("word", "x" * 100_000):
                connection.send(message)
                assert connection.recv() == message
            connection.close()
        """, port, *paths[:1])
