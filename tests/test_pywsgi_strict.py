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
    ("RFC 9110 8.6 vertical tab behind the digits", 400, post(b"Content-Length: 4\x0b")),
    ("RFC 9110 8.6 no-break space behind the digits", 400, post(b"Content-Length: 4\xa0")),
    ("RFC 9110 8.6 parameter", 400, post(b"Content-Length: 4;")),
    ("RFC 9110 8.6 quotes", 400, post(b'Content-Length: "4"')),
    ("RFC 9110 8.6 exponent", 400, post(b"Content-Length: 4e0")),
    ("RFC 9110 8.6 an empty and a good length", 400, post(b"Content-Length:\r\nContent-Length: 4")),
    ("RFC 9110 5.6.2 letter beyond ASCII that folds to one of chunked's", 400,
     post("Transfer-Encoding: chun\u212aed".encode())),
    ("RFC 9112 6.1 chunked in single quotes", 501, post(b"Transfer-Encoding: 'chunked'")),
    ("RFC 9112 6.1 Transfer-Encoding with an unusable Content-Length", 400,
     post(b"Transfer-Encoding: chunked\r\nContent-Length: x", b"0\r\n\r\n")),
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
    ("RFC 9112 2.2 bare CR that hides a length", 400, post(b"X-A: a\rContent-Length: 4")),
    ("RFC 9112 2.2 bare LF that hides a length", 400, post(b"X-A: a\nContent-Length: 4")),
    ("RFC 9112 2.2 two CRs at a line's end", 400, field(b"X-A: a\r")),
    ("RFC 9112 2.2 two CRs for the empty line", 400, b"GET / HTTP/1.1\r\nHost: t\r\n\r\r\n"),
    ("RFC 9112 2.2 LF CR for a line's end", 400, b"GET / HTTP/1.1\n\rHost: t\r\n\r\n"),
    ("RFC 9112 5.1 NUL before the colon", 400, post(b"Content-Length\0: 4")),
    ("RFC 9112 5.1 space within the name", 400, post(b"Content Length: 4")),
    ("RFC 9112 5.1 vertical tab before the name", 400, post(b"\x0bContent-Length: 4")),
    ("RFC 9112 5.2 name behind white space", 400, post(b"\tContent-Length: 4")),
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
    ("RFC 9112 3 byte order mark", 400, b"\xef\xbb\xbf" + line(b"GET / HTTP/1.1")),
    ("RFC 9112 3 space before the method", 400, line(b" GET / HTTP/1.1")),
    ("RFC 9112 3 vertical tab for a space", 400, line(b"GET\x0b/ HTTP/1.1")),
    ("RFC 9112 3 no target", 400, line(b"GET  HTTP/1.1")),
    ("RFC 9112 2.2 CR before the version", 400, line(b"GET /\r HTTP/1.1")),
    ("RFC 9112 2.2 five empty lines", 400, b"\r\n" * 5 + line(b"GET / HTTP/1.1")),
    ("RFC 9112 2.3 space within the version", 400, line(b"GET / HTTP/1. 1")),
    ("RFC 9112 2.3 no minor version", 400, line(b"GET / HTTP/1")),
    ("RFC 9112 2.3 another protocol", 400, line(b"GET / RTSP/1.0")),
    ("RFC 9112 2.3 HTTP/0.9 by name", 505, line(b"GET / HTTP/0.9")),
    ("RFC 9112 3.2.1 path without a slash", 400, line(b"GET a HTTP/1.1")),
    ("RFC 9110 4.2.1 no host in the target", 400, line(b"GET http:///a HTTP/1.1")),
    ("RFC 9112 3.2.2 no authority in the target", 400, line(b"GET http:/a HTTP/1.1")),
    ("RFC 3986 3.1 scheme that begins with a digit", 400, line(b"GET 1http://t/ HTTP/1.1")),
    ("RFC 3986 3.2.2 bracket that is not closed", 400, line(b"GET http://[::1/ HTTP/1.1")),
    ("RFC 3986 3.2.3 port of the target is no number", 400, line(b"GET http://t:8a/ HTTP/1.1")),
    ("RFC 3986 3.2.2 backslash in the target's host", 400, line(b"GET http://t\\a/ HTTP/1.1")),
    ("RFC 9112 3.2.3 CONNECT without a port", 400, line(b"CONNECT t HTTP/1.1")),
    ("RFC 9112 3.2.3 CONNECT with a path", 400, line(b"CONNECT t:80/ HTTP/1.1")),
    ("RFC 9112 3.2.3 CONNECT with the origin form", 400, line(b"CONNECT / HTTP/1.1")),
    # Host.
    ("RFC 9112 3.2 no Host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("RFC 9112 3.2 two Hosts", 400, b"GET / HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n"),
    ("RFC 9110 7.2 Host is no host", 400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("RFC 9110 7.2 Host with user information", 400, b"GET / HTTP/1.1\r\nHost: a@t\r\n\r\n"),
    ("RFC 9112 3.2 an empty Host and another", 400, b"GET / HTTP/1.1\r\nHost:\r\nHost: t\r\n\r\n"),
    ("RFC 9110 7.2 Host with a path", 400, b"GET / HTTP/1.1\r\nHost: t/a\r\n\r\n"),
    ("RFC 9110 7.2 Host with a scheme", 400, b"GET / HTTP/1.1\r\nHost: http://t\r\n\r\n"),
    ("RFC 9110 7.2 Host with two ports", 400, b"GET / HTTP/1.1\r\nHost: t:80:80\r\n\r\n"),
    ("RFC 9110 7.2 Host with a port that is no number", 400, b"GET / HTTP/1.1\r\nHost: t:8a\r\n\r\n"),
    ("RFC 9110 7.2 Host with a port only", 400, b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    ("RFC 3986 3.2.2 Host with an address without brackets", 400, b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"),
    ("RFC 3986 3.2.2 Host with bytes behind the bracket", 400, b"GET / HTTP/1.1\r\nHost: [::1]80\r\n\r\n"),
    ("RFC 3986 3.2.2 Host beyond ASCII", 400, b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n"),
    ("RFC 9112 3.2 Host that is no host, in HTTP/1.0", 400, b"GET / HTTP/1.0\r\nHost: t/a\r\n\r\n"),
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
    ("RFC 9112 7.1 digits beyond ASCII", 400, chunks("\uff14\r\nbody\r\n0\r\n\r\n".encode())),
    ("RFC 9112 7.1 size that grows beyond 64 bits by its last digit", 400,
     chunks(b"ffffffffffffffff0\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 endless zeros", 400, chunks(b"0" * 20000)),
    ("RFC 9112 7.1 comma behind the size", 400, chunks(b"4,a\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1 no size behind the data", 400, chunks(b"4\r\nbody\r\n\r\n")),
    ("RFC 9112 2.2 two CRs behind the size", 400, chunks(b"4\r\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 2.2 two CRs behind the trailers", 400, chunks(b"4\r\nbody\r\n0\r\n\r\r\n")),
    ("RFC 9112 7.1.1 semicolon alone", 400, chunks(b"4;\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 two semicolons", 400, chunks(b"4;a;;b\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 no value behind the sign", 400, chunks(b"4;a=\r\nbody\r\n0\r\n\r\n")),
    ("RFC 9112 7.1.1 line end within quotes", 400, chunks(b'4;a="\r\n"\r\nbody\r\n0\r\n\r\n')),
    ("RFC 9112 7.1.2 space before a trailer's colon", 400, chunks(b"4\r\nbody\r\n0\r\nA : b\r\n\r\n")),
    ("RFC 9112 7.1.2 a request in place of the trailers", 400,
     chunks(b"4\r\nbody\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n")),
    ("RFC 9110 5.5 CR in a trailer", 400, chunks(b"4\r\nbody\r\n0\r\nA: b\rc\r\n\r\n")),
    ("RFC 9112 7.1.1 endless extension", 400, chunks(b"4;" + b"a" * 20000)),
    ("RFC 9112 7.1.2 malformed trailer", 400, chunks(b"4\r\nbody\r\n0\r\nnonsense\r\n\r\n")),
    ("RFC 9112 5.2 folded trailer", 400, chunks(b"4\r\nbody\r\n0\r\nA: b\r\n c\r\n\r\n")),
    ("RFC 9110 6.5.1 endless trailers", 400, chunks(b"0\r\n" + b"A: b\r\n" * 20000)),
]

ACCEPTED = [
    ("RFC 9112 2.2 an empty line before the request", b"\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    ("RFC 9112 2.2 four empty lines before the request", b"\r\n" * 4 + line(b"GET / HTTP/1.1")),
    ("RFC 3986 3.2.2 address in brackets", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
    ("RFC 6874 2 address with a zone, as of Python 3.10",
     b"GET / HTTP/1.1\r\nHost: [fe80::1%eth0]:80\r\n\r\n"),
    ("RFC 6874 2 address with a zone", b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"),
    ("RFC 9110 7.2 empty port", b"GET / HTTP/1.1\r\nHost: t:\r\n\r\n"),
    ("RFC 9110 7.2 underscore in Host", b"GET / HTTP/1.1\r\nHost: a_b\r\n\r\n"),
    ("RFC 9110 5.5 tab in a value", field(b"X-A: a\tb")),
    ("RFC 9110 5.5 empty value", field(b"X-A:")),
    ("RFC 9110 8.6 a length as CGI writes it is another field", post(b"Content_Length: 9", b"")),
    ("RFC 9110 10.1.1 another expectation", post(b"Expect: 200-ok\r\nContent-Length: 4")),
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
