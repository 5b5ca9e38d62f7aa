"""pywsgi behind proxies: X-Forwarded-For and the PROXY protocol; and what it says of itself: log formats, Server."""
import io
import json
import re
import struct

import pytest
from http_client import Client, hello

pytestmark = pytest.mark.ours_only("the real gevent knows no proxies, and has one log format")


def who(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    words = [environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"), environ["wsgi.url_scheme"]]
    return [" ".join(map(str, words)).encode()]


@pytest.mark.parametrize(
    ("trusted", "fields", "expected"),
    [
        (None, ["X-Forwarded-For: 192.0.2.1"], r"127\.0\.0\.1 \d+ http"),
        (["10.0.0.0/8"], ["X-Forwarded-For: 192.0.2.1"], r"127\.0\.0\.1 \d+ http"),
        (["127.0.0.1"], ["X-Forwarded-For: 192.0.2.1"], r"192\.0\.2\.1 None http"),
        ("127.0.0.0/8, 10.0.0.1", ["X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.1"], r"192\.0\.2\.1 None http"),
        (["127.0.0.1"], ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 2001:db8::1"], r"2001:db8::1 None http"),
        (["127.0.0.1"], ["X-Forwarded-For: unknown"], r"127\.0\.0\.1 \d+ http"),
        (["127.0.0.1"], ["X-Forwarded-Proto: https"], r"127\.0\.0\.1 \d+ https"),
        (["10.0.0.1"], ["X-Forwarded-Proto: https"], r"127\.0\.0\.1 \d+ http"),
        (["*"], ["X-Forwarded-For: 192.0.2.1, 192.0.2.2", "X-Forwarded-Proto: https"], r"192\.0\.2\.1 None https"),
    ],
)
def test_forwarded_client_is_taken_from_trusted_proxies_only(serve, trusted, fields, expected):
    log = io.StringIO()
    with Client(serve(who, trusted_proxies=trusted, log=log)) as client:
        for _ in range(2):   # the second environment is a copy of the first
            assert re.fullmatch(expected, client.get(headers=fields)[2].decode())
        other = client.get(headers=["X-Forwarded-For: 192.0.2.9"])[2].decode()
    assert ("192.0.2.9" in other) == (trusted not in (None, ["10.0.0.0/8"], ["10.0.0.1"]))
    assert log.getvalue().splitlines()[0].split()[0] == expected.replace("\\", "").split()[0]


V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n", r"192\.0\.2\.7 4711 http"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", r"2001:db8::7 4711 http"),
        (b"PROXY UNKNOWN\r\n", r"127\.0\.0\.1 \d+ http"),
        (V2 + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 192, 0, 2, 8]) + struct.pack(">HH", 4711, 80),
         r"192\.0\.2\.7 4711 http"),
        (V2 + b"\x20\x00\x00\x00", r"127\.0\.0\.1 \d+ http"),
    ],
)
@pytest.mark.parametrize("spawn", ["default", 10])
def test_proxy_header_tells_the_client(serve, header, expected, spawn):
    with Client(serve(who, proxy_protocol=True, spawn=spawn)) as client:
        client.send(header + b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert re.fullmatch(expected, client.answer()[2].decode())
        assert re.fullmatch(expected, client.get()[2].decode())


def test_proxy_header_in_single_bytes(serve):
    with Client(serve(who, proxy_protocol=True)) as client:
        for byte in b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n":
            client.send(bytes([byte]))
        assert client.answer()[2] == b"192.0.2.7 4711 http"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"PROXY TCP4 x y 1 2\r\n", V2 + b"\x31\x11\0\0"],
)
def test_connection_without_its_proxy_header_is_closed(serve, data):
    with Client(serve(who, proxy_protocol=True)) as client:
        client.send(data)
        try:
            assert client.at_end()
        except ConnectionResetError:
            pass   # what it did not read


def test_log_in_json(serve):
    log = io.StringIO()
    with Client(serve(hello, log=log, log_format="json")) as client:
        client.get('/a"b\\c?d=e', headers=["User-Agent: x\ty", "Referer: http://t/"])
    record, = map(json.loads, log.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record.pop("seconds") >= 0
    assert record == {
        "client": "127.0.0.1", "method": "GET", "path": '/a"b\\c', "query": "d=e", "protocol": "HTTP/1.1",
        "referer": "http://t/", "user_agent": "x\ty", "status": 200, "body_bytes": 5,
    }


def test_log_by_format(serve):
    log = io.StringIO()
    form = '%h %l %t "%r" %>s %b %{User-Agent}i %{Content-Type}o %{None}i'
    with Client(serve(hello, log=log, log_format=form)) as client:
        client.get("/x", headers=['User-Agent: a"b'])
        client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
        client.answer(head_only=True)
        client.send(b"nonsense\r\n\r\n")
        client.answer()
    lines = log.getvalue().splitlines()
    time = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    for line, expected in zip(lines, [
        rf'127\.0\.0\.1 - {time} "GET /x HTTP/1\.1" 200 5 a\\"b text/plain -',
        rf'127\.0\.0\.1 - {time} "HEAD / HTTP/1\.1" 200 - - text/plain -',
        rf'127\.0\.0\.1 - {time} "nonsense" 400 .*',
    ], strict=True):
        assert re.fullmatch(expected, line), line


def test_log_is_off_by_none(serve, capfd):
    with Client(serve(hello, log=None, log_format="json")) as client:
        assert client.get()[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("option", "own", "expected"), [
    (None, None, None), ("greenrust", None, "greenrust"), ("greenrust", "mine", "mine"),
])
def test_server_header_is_set_where_the_application_has_none(serve, option, own, expected):
    def application(environ, start_response):
        start_response("200 OK", [("Server", own)] if own else [])
        return []

    with Client(serve(application, server_header=option)) as client:
        assert client.get()[1].get("server") == expected
