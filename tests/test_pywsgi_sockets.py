"""The same server at each kind of socket: TCP of both families, Unix, and TLS over them."""
import hashlib
import io
import re

import gevent
import pytest
from gevent import socket, ssl
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from http_client import Client
from implementation import IS_GREENRUST


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


KINDS = ["IPv4", pytest.param("IPv6", marks=pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")), "Unix", "TLS",
         "TLS at Unix"]
LAST = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


class PlaceClient(Client):
    def at_end(self):
        try:
            return super().at_end()
        except OSError:
            # The real server ends TLS without a closure alert: at a Unix socket OpenSSL 3.5 fails then.
            return not IS_GREENRUST


class Place:
    """Where servers listen, and clients connect."""

    def __init__(self, kind, folder, certificate):
        self.is_tls, self.is_unix = "TLS" in kind, "Unix" in kind
        self.host = "::1" if kind == "IPv6" else "127.0.0.1"
        self.certificate = certificate if self.is_tls else {}
        self.path = str(folder / "socket")
        self.servers = []

    def serve(self, application, **options):
        options = {"log": None, "error_log": io.StringIO()} | self.certificate | options
        listener = (self.host, 0)
        if self.is_unix:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
            listener.listen()
        server = WSGIServer(listener, application, **options)
        self.servers.append(server)
        server.start()
        return server

    def connect(self, server, first=b""):
        """Return a client, which sends `first` before a TLS handshake."""
        client = object.__new__(PlaceClient)
        if self.is_unix:
            client.sock = socket.socket(socket.AF_UNIX)
            client.sock.settimeout(30)
            client.sock.connect(self.path)
        else:
            client.sock = socket.create_connection((self.host, server.server_port), timeout=30)
        client.sock.sendall(first)
        if self.is_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.sock = context.wrap_socket(client.sock)
        client.file = client.sock.makefile("rb")
        return client


@pytest.fixture(params=KINDS)
def place(request, tmp_path, certificate):
    place = Place(request.param, tmp_path, certificate)
    yield place
    for server in place.servers:
        server.stop(timeout=1)


def digest(environ, start_response):
    """Answer by the digest of the body, in chunks."""
    data = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"])])
    return iter([f"{len(data)} ".encode(), hashlib.sha256(data).hexdigest().encode()])


def told(data):
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


@pytest.mark.parametrize("spawn", ["default", 5])
def test_bodies_of_all_kinds_on_one_connection(place, spawn):
    large = bytes(range(256)) * 4000
    with place.connect(place.serve(digest, spawn=spawn)) as client:
        for _ in range(2):
            assert client.get()[2] == told(b"")
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
            assert client.answer()[2] == told(large)
            client.send(b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(large), 50_000):
                chunk = large[start:start + 50_000]
                client.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            client.send(b"0\r\n\r\n")
            assert client.answer()[2] == told(large)
            client.send(b"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert client.file.readline() == b"\r\n"
            client.send(b"word")
            status, headers, body = client.answer()
            assert (status, headers["x-method"], body) == (200, "PUT", told(b"word"))
        bodies = [b"%d" % number * number for number in range(40)]
        client.send(b"".join(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                             for body in bodies) + LAST)
        assert [client.answer()[2] for _ in bodies] == [told(body) for body in bodies]
        assert client.answer()[2] == told(b"")
        assert client.at_end()


def test_large_answer(place):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data[:1 << 20], data[1 << 20:]]

    data = bytes(range(256)) * (3 << 12)
    with place.connect(place.serve(application)) as client:
        client.send(LAST)
        assert client.answer()[2] == data
        assert client.at_end()


@pytest.mark.ours_only("gevent has no wsgi.file_wrapper")
def test_file(place, tmp_path):
    def application(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(path, "rb"))

    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (2 << 12))
    with place.connect(place.serve(application)) as client:
        for _ in range(2):
            _, headers, body = client.get()
            assert body == path.read_bytes()
            assert headers["content-length"] == str(len(body))


def test_environment_and_log_tell_the_kind(place):
    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    seen, log = {}, io.StringIO()
    server = place.serve(application, log=log)
    with place.connect(server) as client:
        assert client.get()[0] == 200
        name = client.sock.getsockname()
    assert seen["wsgi.url_scheme"] == ("https" if place.is_tls else "http")
    if place.is_unix:
        assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("", "")
        assert "REMOTE_ADDR" not in seen and "REMOTE_PORT" not in seen
    else:
        assert seen["SERVER_PORT"] == str(server.server_port)
        assert seen["SERVER_NAME"]
        assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == (name[0], str(name[1]))
    while not log.getvalue():
        gevent.sleep(0.001)
    assert re.match(r"- - - \[" if place.is_unix else rf"{re.escape(place.host)} - - \[", log.getvalue())


@pytest.mark.ours_only("gevent closes connections at once")
@pytest.mark.parametrize("spawn", ["default", "pool"])
def test_stop_answers_what_is_in_work_and_closes_the_idle(place, spawn):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            entered.set()
            go.wait()
        start_response("200 OK", [])
        return [b"whole"]

    entered, go = Event(), Event()
    server = place.serve(application, spawn=Pool(5) if spawn == "pool" else spawn)
    with place.connect(server) as idle, place.connect(server) as busy:
        assert idle.get()[2] == b"whole"
        busy.send(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        entered.wait()
        stopping = gevent.spawn(server.stop, timeout=30)
        assert idle.at_end()
        go.set()
        _, headers, body = busy.answer()
        assert (body, headers["connection"]) == (b"whole", "close")
        assert busy.at_end()
        stopping.get(timeout=30)


@pytest.mark.ours_only("gevent has no such parameters")
@pytest.mark.parametrize(("option", "data", "status"), [
    ("max_request_line", b"GET /%s HTTP/1.1\r\nHost: t\r\n\r\n" % (b"x" * 300), 414),
    ("max_header_bytes", b"GET / HTTP/1.1\r\nHost: t\r\nA: %s\r\n\r\n" % (b"x" * 300), 431),
    ("max_body_bytes", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 300\r\n\r\n", 413),
    ("max_body_bytes", b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n12c\r\n", 413),
])
def test_limits(place, option, data, status):
    with place.connect(place.serve(digest, **{option: 200})) as client:
        client.send(data)
        assert client.answer()[0] == status
        assert client.at_end()


@pytest.mark.ours_only("gevent has no such parameters")
@pytest.mark.parametrize("trusted", [["10.0.0.1"], ["127.0.0.1", "::1", "unix"]])
def test_proxies_are_trusted_by_where_they_are(place, trusted):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ.get('REMOTE_ADDR')} {environ['wsgi.url_scheme']}".encode()]

    scheme = "https" if place.is_tls else "http"
    own = None if place.is_unix else place.host
    with place.connect(place.serve(application, trusted_proxies=trusted)) as client:
        answer = client.get("/", ["X-Forwarded-For: 192.0.2.1, 192.0.2.2", "X-Forwarded-Proto: https"])[2].decode()
        assert answer == (f"{own} {scheme}" if trusted == ["10.0.0.1"] else "192.0.2.2 https")
        assert client.get()[2].decode() == f"{own} {scheme}"


@pytest.mark.ours_only("gevent has no such parameters")
def test_proxy_header_comes_before_all_else(place):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['REMOTE_ADDR']} {environ['REMOTE_PORT']} {environ['wsgi.url_scheme']}".encode()]

    server = place.serve(application, proxy_protocol=True)
    with place.connect(server, first=b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n") as client:
        for _ in range(2):
            assert client.get()[2].decode() == f"192.0.2.7 4711 {'https' if place.is_tls else 'http'}"


@pytest.mark.ours_only("gevent has no WebSockets")
def test_websocket(place):
    def application(environ, start_response):
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message.upper())
        return []

    with place.connect(place.serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert client.answer(head_only=True)[0] == 101
        for _ in range(3):
            # A text message with a mask that changes nothing.
            client.send(b"\x81\x84\0\0\0\0word")
            assert client.file.read(6) == b"\x81\x04WORD"
        client.send(b"\x88\x82\0\0\0\0\x03\xe8")
        assert client.file.read() == b"\x88\x02\x03\xe8"
