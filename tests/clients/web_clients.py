"""Clients of the web that show what the server does with them; they are threads of a Python without patching."""
import http.client
import threading

__all__ = ["Load", "fetch"]


def fetch(port, path="/", method="GET", body=None, headers=()):
    """Return (status, body) of the answer on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request(method, path, body, {"Connection": "close", **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Load:
    """Clients that post to `port`, over and over, each time on a new connection, until the block is left.

    `answers` are the words of each answer's body, `failures` what came instead of an answer with status 200.
    """

    def __init__(self, port, clients=6):
        self.answers, self.failures = [], []
        self._port = port
        self._ends = threading.Event()
        self._clients = [threading.Thread(target=self._post) for _ in range(clients)]

    def _post(self):
        while not self._ends.is_set():
            try:
                status, body = fetch(self._port, "/", "POST", b"x" * 5000)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if status == 200:
                    self.answers.append(body.decode().split())
                else:
                    self.failures.append((status, body))

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exc_info):
        self._ends.set()
        for client in self._clients:
            client.join()
