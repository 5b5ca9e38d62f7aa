"""A client that shows every byte of an HTTP/1.1 connection, and the smallest application to talk to."""
import gevent
from gevent import socket, ssl
from gevent.event import Event


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Client:
    """One HTTP/1.1 connection that reads answers by their framing."""

    def __init__(self, server):
        self.sock = socket.create_connection((server.server_host, server.server_port), timeout=5)
        self.file = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.file.close()
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def answer(self, head_only=False):
        """Return (status code, {header: value}, body) of the next answer."""
        status = self.file.readline().split(b" ", 2)
        assert status[0] in (b"HTTP/1.1", b"HTTP/1.0"), status
        headers = {}
        for line in iter(self.file.readline, b"\r\n"):
            assert line, "the connection was closed within the head"
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if head_only:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(self.file.readline(), 16):
                chunks.append(self.file.read(size))
                assert self.file.read(2) == b"\r\n"
            assert self.file.readline() == b"\r\n"
            body = b"".join(chunks)
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return int(status[1]), headers, body

    def get(self, path="/", headers=()):
        lines = [f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))
        return self.answer()

    def at_end(self):
        return self.file.read() == b""


def connect_by_tls(server):
    """Return a TLS socket that is connected with the server, whatever its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(server.address, timeout=30))


class TLSClient(Client):
    """A `Client` by TLS, whatever the server's certificate."""

    def __init__(self, server):
        self.sock = connect_by_tls(server)
        self.file = self.sock.makefile("rb")


class WaitingApplication:
    """Answers as `hello`, at "/slow" only after `go` is set; `entered` is set once it is asked for that."""

    def __init__(self):
        self.entered, self.go = Event(), Event()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            self.entered.set()
            self.go.wait()
        return hello(environ, start_response)


def until(condition):
    """Wait until the function returns true; fail after 30 seconds."""
    with gevent.Timeout(30):
        while not condition():
            gevent.sleep(0.01)


def until_connected(server, count):
    """Wait until the server has so many connections."""
    until(lambda: len(server._service) >= count)
    # Their greenlets run.
    gevent.sleep(0)


def serve_dozing(serve, application, **options):
    """Return a server and a client whose connection was served once, and has no greenlet any more."""
    server = serve(application, **options)
    client = Client(server)
    assert client.get()[0] == 200
    until(lambda: server._service.dozing)
    return server, client
