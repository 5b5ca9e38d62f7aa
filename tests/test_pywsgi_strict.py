"""What pywsgi refuses: requests that are malformed, or that two implementations could read differently.

Each case names the section of the RFC that it is about. A refused request must not reach the application, nor must what
follows it on the connection: that is what smuggled requests are.
"""
import random

import pytest
from http_client import Client

pytestmark = pytest.mark.ours_only("the real server lets much of this pass")

NEXT = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"


def line(text):
    return text + b"\r\nHost: t\r\n\r\n"


def field(text):
    return b"GET / HTTP/1.1\r\nHost: t\r\n" + text + b"\r\n\r\n"


def post(fields, body=b"body"):
    return b"POST / HTTP/1.1\r\nHost: t\r\n" + fields + b"\r\n\r\n" + body


def chunks(body):
    return post(b"Transfer-Encoding: chunked", body)


REFUSED = [
    # Framing: the length of a body has one reading.
    ("RFC 9112 6.1 Transfer-Encoding and Content-Length", 400,
     post(b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")),
    ("RFC 9112 6.1 the other way round", 400,
     post(b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"0\r\n\r\n")),
    ("RFC 9112 6.1 Transfer-Encoding in HTTP/1.0", 400,
     b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("RFC 9112 6.1 unknown coding", 501, post(b"Transfer-Encoding: xchunked")),
    ("RFC 9112 6.1 unknown coding before chunked", 501, post(b"Transfer-Encoding: x, chunked")),
    ("RFC 9112 6.1 gzip, which is not decoded", 501, post(b"Transfer-Encoding: gzip, chunked")),
    ("RFC 9112 6.3 chunked is not the last coding", 400, post(b"Transfer-Encoding: chunked, identity")),
    ("RFC 9112 7 chunked twice", 400, post(b"Transfer-Encoding: chunked, chunked")),
    ("RFC 9112 7 chunked twice, in two fields", 400,
     post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
    ("RFC 9112 6.1 empty Transfer-Encoding", 400, post(b"Transfer-Encoding:")),
    ("RFC 9112 6.1 empty element before chunked", 400, post(b"Transfer-Encoding: ,chunked")),
    ("RFC 9112 6.1 empty element behind chunked", 400, post(b"Transfer-Encoding: chunked,")),
    ("RFC 9112 6.1 chunked in quotes", 400, post(b'Transfer-Encoding: "chunked"')),
    ("RFC 9112 6.1 unknown coding in a field before", 501,
     post(b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked")),
    ("RFC 9112 6.1 identity, which is no coding any more", 501, post(b"Transfer-Encoding: identity")),
    ("RFC 9112 7.1 chunked with a parameter", 400, post(b"Transfer-Encoding: chunked;q=1")),
    ("RFC 9110 5.5 vertical tab before chunked", 400, post(b"Transfer-Encoding: \x0bchunked")),
    ("RFC 9110 5.5 NUL behind chunked", 400, post(b"Transfer-Encoding: chunked\0")),
    ("RFC 9112 6.1 no-break space behind chunked", 400, post(b"Transfer-Encoding: chunked\xa0")),
    ("RFC 9112 6.3 differing lengths", 400, post(b"Content-Length: 4\r\nContent-Length: 5")),
    ("RFC 9112 6.3 differing lengths in a list", 400, post(b"Content-Length: 4, 5")),
    ("RFC 9110 8.6 equal lengths, which joined would differ", 400,
     post(b"Content-Length: 4\r\nContent-Length: 4")),
    ("RFC 9110 8.6 equal lengths in a list", 400, post(b"Content-Length: 4,4")),
    ("RFC 9110 8.6 sign", 400, post(b"Content-Length: +4")),
    ("RFC 9110 8.6 negative", 400, post(b"Content-Length: -4")),
    ("RFC 9110 8.6 hexadecimal", 400, post(b"Content-Length: 0x4")),
    ("RFC 9110 8.6 underscore", 400, post(b"Content-Length: 1_0")),
    ("RFC 9110 8.6 fraction", 400, post(b"Content-Length: 4.0")),
    ("RFC 9110 8.6 space within", 400, post(b"Content-Length: 4 4")),
    ("RFC 9110 8.6 empty", 400, post(b"Content-Length:")),
    ("RFC 9110 8.6 beyond 64 bits", 400, post(b"Content-Length: 18446744073709551620")),
    ("RFC 9110 8.6 digits beyond ASCII", 400, post("Content-Length: \u0664".encode())),
    # Fields.
    ("RFC 9112 5.1 space before the colon", 400, post(b"Content-Length : 4")),
    ("RFC 9112 5.1 tab before the colon", 400, post(b"Transfer-Encoding\t: chunked")),
    ("RFC 9112 5.1 no name", 400, field(b": value")),
    ("RFC 9112 5 no colon", 400, field(b"nonsense")),
    ("RFC 9110 5.6.2 name is no token", 400, field(b"a(b: c")),
    ("RFC 9110 5.6.2 name beyond ASCII", 400, field(b"\xe9: c")),
    ("RFC 9112 5.2 folded line", 400, field(b"X-A: 1\r\n folded")),
    ("RFC 9112 2.2 space before the first field", 400, b"GET / HTTP/1.1\r\n Host: t\r\n\r\n"),
    ("RFC 9110 5.5 NUL in a value", 400, field(b"X-A: a\0b")),
    ("RFC 9110 5.5 CR in a value", 400, field(b"X-A: a\rb")),
    ("RFC 9110 5.5 control byte in a value", 400, field(b"X-A: a\x01b")),
    ("RFC 9110 5.5 DEL in a value", 400, field(b"X-A: a\x7fb")),
    ("RFC 9112 2.2 bare LF behind the request line", 400, b"GET / HTTP/1.1\nHost: t\r\n\r\n"),
    ("RFC 9112 2.2 bare LF behind a field", 400, b"GET / HTTP/1.1\r\nHost: t\n\r\n"),
    ("RFC 9112 2.2 bare LF for the empty line", 400, b"GET / HTTP/1.1\r\nHost: t\r\n\n"),
    # The request line.
    ("RFC 9112 3 nonsense", 400, line(b"nonsense")),
    ("RFC 9112 3 HTTP/0.9", 400, b"GET /\r\n\r\n"),
    ("RFC 9112 3 two spaces", 400, line(b"GET  / HTTP/1.1")),
    ("RFC 9112 3 tab for a space", 400, line(b"GET\t/ HTTP/1.1")),
    ("RFC 9112 3 space in the target", 400, line(b"GET /a b HTTP/1.1")),
    ("RFC 9112 3 space at the end", 400, line(b"GET / HTTP/1.1 ")),
    ("RFC 9112 3 too long", 414, line(b"GET /" + b"x" * 9000 + b" HTTP/1.1")),
    ("RFC 9110 9.1 method is no token", 400, line(b"G(T / HTTP/1.1")),
    ("RFC 9112 3.2 byte beyond ASCII in the target", 400, line(b"GET /\xe9 HTTP/1.1")),
    ("RFC 9112 3.2 NUL in the target", 400, line(b"GET /\0 HTTP/1.1")),
    ("RFC 9112 3.2 fragment", 400, line(b"GET /a#b HTTP/1.1")),
    ("RFC 9112 3.2.3 authority form without CONNECT", 400, line(b"GET t:80 HTTP/1.1")),
    ("RFC 9112 3.2.4 asterisk without OPTIONS", 400, line(b"GET * HTTP/1.1")),
    ("RFC 9110 4.2.4 user information", 400, line(b"GET http://a@t/ HTTP/1.1")),
    ("RFC 9112 2.3 version in lower case", 400, line(b"GET / http/1.1")),
    ("RFC 9112 2.3 version of two digits", 400, line(b"GET / HTTP/1.10")),
    ("RFC 9110 15.6.6 HTTP/1.2", 505, line(b"GET / HTTP/1.2")),
    ("RFC 9110 15.6.6 HTTP/2.0", 505, line(b"GET / HTTP/2.0")),
    ("RFC 9113 3.4 preface of HTTP/2", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    # Host.
    ("RFC 9112 3.2 no Host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("RFC 9112 3.2 two Hosts", 400, b"GET / HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n"),
    ("RFC 9110 7.2 Host is no host", 400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("RFC 9110 7.2 Host with user information", 400, b"GET / HTTP/1.1\r\nHost: a@t\r\n\r\n"),
    # How much.
    ("RFC 6585 5 too many fields", 431, field(b"\r\n".join(b"X-%d: 1" % number for number in range(150)))),
    ("RFC 6585 5 too large fields", 431, field(b"X-A: " + b"x" * 70000)),
    # Chunks.
    ("RFC 9112 7.1 size is no number", 400, chunks(b"x\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 no size", 400, chunks(b"\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 sign", 400, chunks(b"+4\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 negative", 400, chunks(b"-4\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 prefix", 400, chunks(b"0x4\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 underscore", 400, chunks(b"1_0\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 beyond 64 bits", 400, chunks(b"10000000000000004\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 space before the size", 400, chunks(b" 4\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 bare LF behind the size", 400, chunks(b"4\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 no CRLF behind the data", 400, chunks(b"4\r\nbodyX\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 bare LF behind the data", 400, chunks(b"4\r\nbody\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 extension without a name", 400, chunks(b"4;=a\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 control byte in an extension", 400, chunks(b"4;a=\x01\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 bare LF in an extension", 400, chunks(b"4;a\nb\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 bare CR in an extension", 400, chunks(b"4;a\rb\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 white space alone behind the size", 400, chunks(b"4 \r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 bare LF behind the trailers", 400, chunks(b"4\r\nbody\r\n0\r\nA: b\r\n\n")),
    ("RFC 9112 7.1.1 endless extension", 400, chunks(b"4;" + b"a" * 20000)),
    ("RFC 9112 7.1.2 malformed trailer", 400, chunks(b"4\r\nbody\r\n0\r\nnonsense\r\n\r\n")),
    ("RFC 9112 5.2 folded trailer", 400, chunks(b"4\r\nbody\r\n0\r\nA: b\r\n c\r\n\r\n")),
    ("RFC 9110 6.5.1 endless trailers", 400, chunks(b"0\r\n" + b"A: b\r\n" * 20000)),
]

ACCEPTED = [
    ("RFC 9112 2.2 an empty line before the request", b"\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    ("RFC 9112 3.2.2 absolute form", b"GET http://t/ HTTP/1.1\r\nHost: t\r\n\r\n"),
    ("RFC 9112 3.2 empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("RFC 9112 5.1 no space behind the colon", b"GET / HTTP/1.1\r\nHost:t\r\n\r\n"),
    ("RFC 9110 5.5 bytes beyond ASCII", field(b"X-A: \xe9")),
    ("RFC 9110 8.6 zero", post(b"Content-Length: 0", b"")),
    ("RFC 9110 8.6 leading zeros", post(b"Content-Length: 0004", b"body")),
    ("RFC 9112 6.1 coding in capitals", post(b"Transfer-Encoding: Chunked", b"0\r\n\r\n")),
    ("RFC 9112 6.1 coding behind a tab", post(b"Transfer-Encoding:\tchunked\t", b"0\r\n\r\n")),
    ("RFC 9112 7.1 size in capitals, with zeros", chunks(b"00A\r\n0123456789\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 extensions", chunks(b'4;a;b=c;d="e\\"f"\r\nbody\r\n0;x\r\n\r\n')),
    ("RFC 9112 7.1.2 trailers", chunks(b"4\r\nbody\r\n0\r\nA: b\r\n\r\n")),
    ("RFC 9110 6.5.1 trailers that would frame", chunks(b"4\r\nbody\r\n0\r\nContent-Length: 50\r\n\r\n")),
    ("RFC 9110 7.8 body of a request that asks for an upgrade",
     post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4")),
    ("RFC 9110 7.8 chunked body of a request that asks for an upgrade",
     chunks(b"4\r\nbody\r\n0\r\n\r\n").replace(b"Host: t", b"Host: t\r\nConnection: Upgrade\r\nUpgrade: websocket")),
]


def application_that_notes(seen):
    def application(environ, start_response):
        seen.append(environ["PATH_INFO"])
        body = environ["wsgi.input"].read()
        seen.append(body)
        start_response("200 OK", [])
        return [body]

    return application


@pytest.mark.parametrize(("rule", "status", "data"), [pytest.param(*case, id=case[0]) for case in REFUSED])
def test_refused(serve, rule, status, data):
    assert rule.startswith("RFC ")
    seen = []
    with Client(serve(application_that_notes(seen))) as client:
        client.send(data + NEXT)
        answered, headers, _ = client.answer()
        assert answered == status
        assert headers["connection"] == "close"
        assert client.at_end()
    # The head of a request whose body is malformed was good; its body and what follows must not get through.
    assert seen == (["/"] if b"ransfer-Encoding: chunked\r\n\r\n" in data and seen else [])


@pytest.mark.parametrize(("rule", "data"), [pytest.param(*case, id=case[0]) for case in ACCEPTED])
def test_accepted_and_the_next_request_is_found(serve, rule, data):
    seen = []
    with Client(serve(application_that_notes(seen))) as client:
        client.send(data + NEXT)
        assert client.answer()[0] == 200
        assert client.answer()[0] == 200
    assert seen[::2] == ["/", "/smuggled"]


@pytest.mark.parametrize(("rule", "target", "host"), [
    ("RFC 9112 3.2.2", "http://target:81/path", "target:81"),
    ("RFC 9112 3.2.2", "http://target?query", "target"),
    ("RFC 9112 3.2.1", "//target/path", "field"),
    ("RFC 9110 7.1", "CONNECT", "target:443"),
])
def test_host_of_the_target_is_the_one_that_counts(serve, rule, target, host):
    hosts = []

    def application(environ, start_response):
        hosts.append(environ["HTTP_HOST"])
        start_response("404 Not Found", [("Content-Length", "0")])
        return []

    request = f"GET {target} HTTP/1.1" if target != "CONNECT" else "CONNECT target:443 HTTP/1.1"
    plain = b"GET / HTTP/1.1\r\nHost: field\r\n\r\n"
    with Client(serve(application)) as client:
        # Environments of the same fields are remembered: the target is none of them.
        client.send(2 * plain + 3 * plain.replace(b"GET / HTTP/1.1", request.encode()) + plain)
        for _ in range(6):
            assert client.answer()[0] == 404
    assert hosts == ["field"] * 2 + [host] * 3 + ["field"]


@pytest.mark.parametrize(("rule", "method", "status"), [
    ("RFC 9110 9.3.6", "CONNECT", "200 OK"),
    ("RFC 9110 15.2", "GET", "103 Early Hints"),
])
def test_nothing_follows_an_answer_that_another_or_a_tunnel_would_follow(serve, rule, method, status):
    seen = []

    def application(environ, start_response):
        seen.append(environ["REQUEST_METHOD"])
        start_response(status, [])
        return [b"body"]

    target = "t:443" if method == "CONNECT" else "/"
    with Client(serve(application)) as client:
        client.send(f"{method} {target} HTTP/1.1\r\nHost: t:443\r\n\r\n".encode() + NEXT)
        answered, headers, _ = client.answer(head_only=True)
        assert answered == int(status[:3])
        assert headers["connection"] == "close"
        # RFC 9110 8.6, RFC 9112 6.1
        assert not {"content-length", "transfer-encoding"} & set(headers)
        assert client.at_end()
    assert seen == [method]


@pytest.mark.parametrize(("fields", "paths"), [
    (b"Connection: Upgrade\r\nUpgrade: x", ["/"]),
    (b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket", ["/", "/smuggled"]),
])
def test_upgrade_in_http_1_0_is_none(serve, fields, paths):
    """RFC 9110 7.8: Upgrade in HTTP/1.0 is ignored. So what follows is no other protocol, at best another request."""
    seen = []
    with Client(serve(application_that_notes(seen))) as client:
        client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n\r\n" + NEXT)
        for _ in paths:
            assert client.answer()[0] == 200
    assert seen[::2] == paths
    assert not any(seen[1::2])


@pytest.mark.parametrize(("rule", "fields"), [
    ("RFC 9110 8.6 sign", [("Content-Length", "+5")]),
    ("RFC 9110 8.6 underscore", [("Content-Length", "1_0")]),
    ("RFC 9110 8.6 empty", [("Content-Length", "")]),
    ("RFC 9110 8.6 list", [("Content-Length", "5, 5")]),
    ("RFC 9110 8.6 digit beyond ASCII", [("Content-Length", "\xb2")]),
    ("RFC 9112 6.3 differing lengths", [("Content-Length", "5"), ("content-length", "6")]),
    ("RFC 9110 5.5 NUL", [("X-A", "a\0b")]),
    ("RFC 9112 5.1 space before the colon", [("X-A ", "b")]),
])
def test_response_whose_end_or_fields_are_unclear_is_not_sent(serve, errors, rule, fields):
    def application(environ, start_response):
        start_response("200 OK", fields)
        return [b"hello"]

    with Client(serve(application)) as client:
        status, headers, body = client.get()
        assert (status, headers["connection"], body) == (500, "close", b"Internal Server Error")
    assert "Error" in errors.getvalue()


@pytest.mark.parametrize(("fields", "result", "framing"), [
    ([], [b"hello"], ("content-length", "5")),
    ([("Content-Length", "5")], [b"hello"], ("content-length", "5")),
    ([], iter([b"he", b"llo"]), ("transfer-encoding", "chunked")),
])
def test_framing_of_another_servers_response_is_not_handed_on(serve, fields, result, framing):
    """RFC 9112 6.1: Content-Length and Transfer-Encoding exclude each other; PEP 3333: the server's are what counts."""
    def application(environ, start_response):
        start_response("200 OK", [("Transfer-Encoding", "chunked"), *fields])
        return result

    with Client(serve(application)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        status, headers, body = client.answer()
    assert (status, body) == (200, b"hello")
    sent = {name: value for name, value in headers.items() if name in ("content-length", "transfer-encoding")}
    assert sent == dict([framing])


def test_no_bytes_stop_the_server(serve):
    """Mutations of the cases above: each connection is answered or closed, and the server serves on."""
    randomness = random.Random(1)
    pieces = [case[-1] for case in REFUSED + ACCEPTED if len(case[-1]) < 500]
    server = serve(application_that_notes([]))
    for _ in range(600):
        data = bytearray(b"".join(randomness.choices(pieces, k=2)))
        for _ in range(randomness.randrange(4)):
            place = randomness.randrange(len(data))
            new = randomness.choice([b"", b"\r\n", b"\0", b"0", b"chunked", b":"])
            data[place:place + randomness.randrange(4)] = new
        with Client(server) as client:
            try:
                client.send(data)
                client.sock.shutdown(1)
                client.file.read()
            except (ConnectionResetError, BrokenPipeError):
                pass
    with Client(server) as client:
        assert client.get()[0] == 200
