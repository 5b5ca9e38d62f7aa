"""Applications of Flask and Django on gevent.pywsgi: large uploads, clients that go away, and slow ones."""
import contextlib
import hashlib
import http.client
import json
import socket
import sys
from pathlib import Path

import pytest
import services
from servers import accepts
from services import until
from web_clients import fetch

MIB = 1 << 20
HEAD = (b'--edge\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n")
TAIL = b"\r\n--edge--\r\n"


@pytest.fixture(scope="module", params=["flask", "django"])
def port(request):
    port = services.free_port()
    command = [sys.executable, str(Path(__file__).with_name("web_applications.py")), request.param, str(port)]
    with services.start(command, lambda: accepts(port), patience=60):
        yield port


def state(port):
    """Return what the application says of the other requests, which therefore don't hold it up."""
    status, body = fetch(port, "/state")
    assert status == 200, body
    return json.loads(body)


def test_upload_of_20_mb_holds_nobody_up(port):
    file = hashlib.sha256(b"seed").digest() * (20 * MIB // 32)
    body = HEAD + file + TAIL
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=40)) as connection:
        connection.putrequest("POST", "/upload")
        connection.putheader("Content-Type", "multipart/form-data; boundary=edge")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10 * MIB])
        state(port)
        connection.send(body[10 * MIB:])
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read()) == {"length": len(file), "sha256": hashlib.sha256(file).hexdigest()}
        # The connection is there for the next request.
        connection.request("GET", "/state")
        assert connection.getresponse().read()


@pytest.mark.parametrize("port", ["flask"], indirect=True)   # Django reads no body without a length
def test_chunked_upload_of_20_mb(port):
    pieces = [bytes([number]) * (MIB - number) for number in range(20)]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=40)) as connection:
        connection.request("POST", "/raw", iter(pieces), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        answer = connection.getresponse()
        length = json.loads(answer.read())["length"]
    assert (answer.status, length) == (200, sum(map(len, pieces)))


def test_client_that_goes_away_within_its_body_ends_the_request(port):
    before = state(port)
    with socket.create_connection(("127.0.0.1", port), timeout=40) as client:
        client.sendall(b"POST /raw HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300_000)
        until(lambda: state(port)["raw"] == before.get("raw", 0) + 1, "request in the application")
    after = until(lambda: ended(port, before), "end of the request")
    # What was cut off does not pass for a whole body.
    assert after.get("raw ended", 0) == before.get("raw ended", 0), after


def ended(port, before):
    after = state(port)
    ends = [after.get(name, 0) - before.get(name, 0) for name in ("raw ended", "raw failed")]
    return after if sum(ends) else None


def ask_for_stream(port, before):
    """Return a connection with a small buffer, on which the application has begun to stream."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.settimeout(40)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /stream HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    until(lambda: state(port).get("stream", 0) == before.get("stream", 0) + 1, "stream")
    return client


def test_stream_waits_for_a_slow_reader(port):
    before = state(port)
    with ask_for_stream(port, before) as client:
        # The same number twice: the application waits, and others are answered.
        numbers = []
        until(lambda: numbers.append(state(port)["chunks"]) or numbers[-2:] == [numbers[-1]] * 2, "wait of the stream")
        made = numbers[-1] - before.get("chunks", 0)
        assert 1 <= made < 64, made
        with http.client.HTTPResponse(client) as answer:
            answer.begin()
            for number in range(64):
                assert answer.read(MIB) == bytes([number]) * MIB
            assert answer.read() == b""
    until(lambda: state(port).get("stream ended", 0) == before.get("stream ended", 0) + 1, "end of the stream")


def test_stream_ends_when_its_reader_goes_away(port):
    before = state(port)
    ask_for_stream(port, before).close()
    after = until(
        lambda: (now := state(port)).get("stream ended", 0) == before.get("stream ended", 0) + 1 and now,
        "end of the stream",
    )
    assert after["chunks"] - before.get("chunks", 0) < 64, after
