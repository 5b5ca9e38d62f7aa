"""Clients of the web that show what the server does with them; they are threads of a Python without patching."""
import http.client
import socket
import threading

__all__ = ["Load", "UnixConnection", "fetch"]


def fetch(port, path="/", method="GET", body=None, headers=()):
    """Return (status, body) of the answer on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request(method, path, body, {"Connection": "close", **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP at a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=40)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Load:
    """Clients that post over and over, until the block is left, by what `connect` makes: `http.client.HTTPConnection`s.

    Every second one keeps its connection as long as the server does; the others have a new one each time. `answers` are
    the words of each answer's body, `failures` what came instead of an answer with status 200.
    """

    def __init__(self, connect, clients=6):
        self.answers, self.failures = [], []
        self._connect = connect
        self._ends = threading.Event()
        self._clients = [threading.Thread(target=self._post, args=(number % 2 == 0,)) for number in range(clients)]

    def _post(self, keeps):
        connection = None
        while not self._ends.is_set():
            is_new = connection is None
            if is_new:
                connection = self._connect()
            try:
                connection.request("POST", "/", b"x" * 5000, {} if keeps else {"Connection": "close"})
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                # A server may close a connection that it has answered on at any time: clients ask once more (RFC 9112
                # section 9.3.1).
                if is_new or not isinstance(error, ConnectionError):
                    self.failures.append(repr(error))
                closes = True
            else:
                if status == 200:
                    self.answers.append(body.decode().split())
                else:
                    self.failures.append((status, body))
                closes = answer.will_close
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exc_info):
        self._ends.set()
        for client in self._clients:
            client.join()
