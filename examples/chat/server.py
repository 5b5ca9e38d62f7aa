"""A chat room: one greenlet for each visitor, WebSockets, and nothing but gevent.

    python examples/chat/server.py [PORT]        # http://127.0.0.1:8000/
"""
import json
import sys
from pathlib import Path

from gevent.pywsgi import WSGIServer
from gevent.queue import Full, Queue, ShutDown
from gevent.websocket import application
import gevent

PAGE = (Path(__file__).parent / "page.html").read_bytes()
LONGEST_NAME = 20
LONGEST_TEXT = 500
# A visitor whose connection does not keep up with so many messages is sent away.
MOST_UNSENT = 100


class Room:
    """Who is here, and what has been said lately."""

    def __init__(self):
        self.visitors = {}      # queue of messages to be sent -> name
        self.history = []

    def say(self, **message):
        text = json.dumps(message)
        self.history = [*self.history[-49:], text]
        for outbox in list(self.visitors):
            try:
                outbox.put_nowait(text)
            except Full:
                self.visitors.pop(outbox, None)
                outbox.shutdown(immediate=True)

    def visit(self, websocket):
        """Serve one visitor until one side closes. The first message is the visitor's name."""
        name = (websocket.receive() or "").strip()[:LONGEST_NAME]
        if not name:
            websocket.close(4000, "a name is needed")
            return
        outbox: Queue[str] = Queue(MOST_UNSENT)
        for text in self.history:
            outbox.put(text)
        self.visitors[outbox] = name
        self.say(kind="came", name=name, visitors=sorted(self.visitors.values()))
        # One greenlet sends while this one receives: neither waits for the other.
        sender = gevent.spawn(self.send_all, websocket, outbox)
        try:
            for text in websocket:
                self.say(kind="said", name=name, text=text[:LONGEST_TEXT])
        finally:
            sender.kill()
            self.visitors.pop(outbox, None)
            self.say(kind="left", name=name, visitors=sorted(self.visitors.values()))

    @staticmethod
    def send_all(websocket, outbox):
        try:
            while True:
                websocket.send(outbox.get())
        except ShutDown:
            websocket.close(1013, "too slow")
        except OSError:
            pass        # the visitor has gone: the other greenlet notices as well


def page(environ, start_response):
    if environ["PATH_INFO"] != "/":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"not found\n"]
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [PAGE]


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    server = WSGIServer(("127.0.0.1", port), application(Room().visit, page), log=None)
    server.start()
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
