"""A web server at which requests meet: `/meet?who=NAME&count=N` is answered when N requests of that name are there.

A client that sends its requests one after the other gets 503 after the patience of the first. Run by a plain Python:
`meeting_server.py PORT`.
"""
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PATIENCE = 20   # seconds
barriers = {}
lock = threading.Lock()
meetings = 0


def count_meeting():
    global meetings
    meetings += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        target = urlsplit(self.path)
        if target.path == "/meetings":
            self.answer(200, str(meetings))
            return
        query = parse_qs(target.query)
        name, count = query["who"][0], int(query["count"][0])
        with lock:
            barrier = barriers.setdefault(name, threading.Barrier(count, count_meeting))
        try:
            barrier.wait(PATIENCE)
        except threading.BrokenBarrierError:
            self.answer(503, "nobody came")
        else:
            self.answer(200, "met")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
