"""gevent.websocket, by the protocol part of the `websockets` library over gevent's sockets."""
import base64
import random
import struct

import gevent
import pytest
from gevent import socket, ssl
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler
from implementation import IS_GREENRUST
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

if IS_GREENRUST:
    from gevent.websocket import Options, WebSocketError, application

pytestmark = pytest.mark.ours_only("the real gevent has no WebSockets")


class Client:
    """A WebSocket client whose frames are seen one by one."""

    def __init__(self, server, path="/", compresses=False, context=None, headers=(), opens=True, **options):
        scheme = "wss" if context else "ws"
        uri = parse_uri(f"{scheme}://127.0.0.1:{server.server_port}{path}")
        if compresses:
            options["extensions"] = [ClientPerMessageDeflateFactory()]
        self.protocol = ClientProtocol(uri, max_size=None, **options)
        self.sock = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        if context:
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.frames = []
        request = self.protocol.connect()
        for name, value in headers:
            request.headers[name] = value
        self.protocol.send_request(request)
        self.flush()
        self.response = self.next() if opens else None
        if self.protocol.handshake_exc is not None:
            self.close()
            raise self.protocol.handshake_exc

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        self.sock.close()

    def flush(self):
        for data in self.protocol.data_to_send():
            if data:
                self.sock.sendall(data)

    def next(self):
        """Return the next frame, the handshake's response, or None when the server has closed."""
        while not self.frames:
            data = self.sock.recv(65536)
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            self.frames += self.protocol.events_received()
            if not self.frames and (not data or isinstance(self.protocol.handshake_exc, InvalidStatus)):
                return None
        return self.frames.pop(0)

    def send(self, message, **options):
        if isinstance(message, str):
            self.protocol.send_text(message.encode(), **options)
        else:
            self.protocol.send_binary(message, **options)
        self.flush()

    def receive(self):
        frame = self.next()
        if isinstance(frame, Response):
            frame = self.next()
        if frame is None or frame.opcode is Opcode.CLOSE:
            return None
        return frame.data.decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)

    def finish(self):
        """Read to the end of the connection; return the close code."""
        while self.next() is not None:
            self.flush()
        return self.protocol.close_code


def echo(ws):
    for message in ws:
        ws.send(message)


def test_messages_go_both_ways(serve):
    with Client(serve(application(echo))) as client:
        for message in ("hello", "", "naïve €😀", b"", b"\x00\xff" * 70, "x" * 70_000, b"y" * 300_000):
            client.send(message)
            assert client.receive() == message
        client.protocol.send_close(1000, "bye")
        client.flush()
        assert client.finish() == 1000


def test_messages_are_compressed_when_the_client_offers_it(serve):
    with Client(serve(application(echo)), compresses=True) as client:
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
        for number in range(50):
            message = f"message {number} " * 500
            client.send(message)
            assert client.receive() == message


def test_without_compression_nothing_is_agreed(serve):
    server = serve(application(echo), websocket_options=Options(compression=False))
    with Client(server, compresses=True) as client:
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        client.send("hello")
        assert client.receive() == "hello"


def test_fragments_become_one_message(serve):
    with Client(serve(application(echo))) as client:
        client.send("one ", fin=False)
        client.protocol.send_ping(b"between")
        client.protocol.send_continuation(b"message", fin=True)
        client.flush()
        pong = client.next()
        assert (pong.opcode, pong.data) == (Opcode.PONG, b"between")
        assert client.receive() == "one message"


@pytest.mark.parametrize("spawn", ("default", 10, "pool"))
def test_many_at_once(serve, spawn):
    server = serve(application(echo), spawn=Pool(100) if spawn == "pool" else spawn)

    def talk(number):
        with Client(server) as client:
            for turn in range(20):
                client.send(f"{number} {turn}")
                assert client.receive() == f"{number} {turn}"
        return number

    # No more than the pool has place for.
    greenlets = [gevent.spawn(talk, number) for number in range(10 if spawn == 10 else 50)]
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert all(g.successful() for g in greenlets)


def test_over_tls(serve, certificate):
    server = serve(application(echo), **certificate)
    context = ssl.create_default_context(cafile=certificate["certfile"])
    context.check_hostname = False
    with Client(server, context=context, compresses=True) as client:
        client.send("secret" * 10_000)
        assert client.receive() == "secret" * 10_000


# -- the handshake ----------------------------------------------------------------------------------------


def test_other_requests_get_426_or_the_fallback(serve):
    def get(server):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def page(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"a page"]

    refused = get(serve(application(echo)))
    assert refused.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in refused
    assert b"a page" in get(serve(application(echo, page)))


def test_the_first_of_ours_that_is_offered_is_the_subprotocol(serve):
    seen = []

    def function(ws):
        seen.append((ws.subprotocol, ws.protocol, ws.offered_subprotocols))

    server = serve(application(function, subprotocols=("graphql", "chat", "mqtt")))
    with Client(server, subprotocols=["mqtt", "chat"]) as client:
        assert client.protocol.subprotocol == "chat"
        assert client.finish() == 1000
    assert seen == [("chat", "chat", ("mqtt", "chat"))]


def test_origins_from_elsewhere_are_refused(serve):
    server = serve(application(echo, origins={"https://here.example"}))
    with pytest.raises(InvalidStatus) as caught:
        Client(server, origin="https://there.example")
    assert caught.value.response.status_code == 403
    with Client(server, origin="https://here.example") as client:
        client.send("hello")
        assert client.receive() == "hello"
    # Programs send none.
    with Client(server) as client:
        client.send("hello")
        assert client.receive() == "hello"


def test_an_application_may_refuse_by_an_ordinary_response(serve):
    def refuse(environ, start_response):
        assert environ["wsgi.websocket"] is not None
        start_response("401 Unauthorized", [("Content-Length", "0")])
        return []

    with pytest.raises(InvalidStatus) as caught:
        Client(serve(refuse))
    assert caught.value.response.status_code == 401


def test_accept_sends_headers_and_refuses_malformed_ones(serve):
    seen = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        for arguments in (
            {"subprotocol": "not offered"},
            {"headers": [("X-A", "one\r\nSet-Cookie: two")]},
            {"headers": [("X A", "one")]},
        ):
            with pytest.raises(ValueError) as caught:
                ws.accept(**arguments)
            seen.append(str(caught.value))
        ws.accept(headers=[("X-Session", "17")])
        with pytest.raises(WebSocketError, match="already answered"):
            ws.accept()
        return []

    with Client(serve(app)) as client:
        assert client.response.headers["X-Session"] == "17"
        assert client.finish() == 1000
    assert "not offered" in seen[0] and "Set-Cookie" in seen[1] and "X A" in seen[2]


@pytest.mark.parametrize("request_head", (
    "POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: short\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
), ids=("method", "version of HTTP", "version of WebSocket", "short key", "no key", "other protocol"))
def test_requests_that_are_not_of_rfc6455_are_not_offered_one(serve, request_head):
    server = serve(application(echo))
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as sock:
        sock.sendall(request_head.encode())
        assert sock.recv(65536).startswith((b"HTTP/1.1 426", b"HTTP/1.0 426"))


def test_the_key_is_answered_as_rfc6455_section_1_3_says(serve):
    server = serve(application(echo))
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as sock:
        sock.sendall(
            b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in sock.recv(65536)


def test_a_message_that_comes_with_the_handshake_is_not_lost(serve):
    server = serve(application(echo))
    with Client(server, opens=False) as client:
        frame = bytes([0x81, 0x85, 1, 2, 3, 4]) + bytes(a ^ b for a, b in zip(b"early", b"\1\2\3\4\1", strict=True))
        client.sock.sendall(frame)
        assert client.receive() == "early"


def test_with_no_options_nothing_is_offered(serve):
    def app(environ, start_response):
        assert "wsgi.websocket" not in environ
        start_response("404 Not Found", [("Content-Length", "0")])
        return []

    server = serve(app)
    server.websocket_options = None
    with pytest.raises(InvalidStatus) as caught:
        Client(server)
    assert caught.value.response.status_code == 404


def test_handlers_that_speak_websocket_themselves_are_not_disturbed(serve):
    """As gevent-websocket does: it writes its own 101 to the socket, and reads the rest from there."""
    import hashlib

    class Handler(WSGIHandler):
        def run_application(self):
            key = self.environ["HTTP_SEC_WEBSOCKET_KEY"].encode()
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.socket.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x05hello"
            )
            self.provided_content_length = None
            self.connection_upgraded = True

    with Client(serve(application(echo), handler_class=Handler)) as client:
        assert client.receive() == "hello"


# -- large and many: what Autobahn's groups 9, 12 and 13 ask -----------------------------------------------


def masked_frame(first, payload):
    """Return a client's frame; the mask is 0, and so the payload as it is."""
    length = len(payload)
    if length < 126:
        head = bytes([first, 0x80 | length])
    elif length < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return b"".join((head, bytes(4), payload))


def read_unmasked_frame(file):
    """Return the first byte and the payload of a server's frame."""
    first, length = file.read(2)
    if length == 126:
        length, = struct.unpack("!H", file.read(2))
    elif length == 127:
        length, = struct.unpack("!Q", file.read(8))
    return first, file.read(length)


def assert_echo(client, opcode, payload, fragment=None, chop=None):
    """Send a message in frames of *fragment* bytes, sent *chop* bytes at a time, and read it in a frame."""
    fragment = fragment or max(1, len(payload))
    pieces = [payload[place:place + fragment] for place in range(0, len(payload), fragment)] or [b""]
    data = b"".join(
        masked_frame((opcode if number == 0 else 0) | (0x80 if number == len(pieces) - 1 else 0), piece)
        for number, piece in enumerate(pieces)
    )

    def send():
        for place in range(0, len(data), chop or len(data)):
            client.sock.sendall(data[place:place + (chop or len(data))])

    sender = gevent.spawn(send)
    with client.sock.makefile("rb") as file:
        first, echoed = read_unmasked_frame(file)
    assert first == 0x80 | opcode
    assert len(echoed) == len(payload) and echoed == payload
    sender.get()


MIB = 1 << 20


@pytest.mark.parametrize(("case", "size", "fragments", "chops"), (
    ("9.1, 9.2", 64 << 10, (None,), (None,)),
    ("9.1, 9.2", 256 << 10, (None,), (None,)),
    ("9.1, 9.2", MIB, (None,), (None,)),
    ("9.1, 9.2", 4 * MIB, (None,), (None,)),
    ("9.1, 9.2", 8 * MIB, (None,), (None,)),
    ("9.1, 9.2", 16 * MIB, (None,), (None,)),
    ("9.3, 9.4", 4 * MIB, (64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, MIB), (None,)),
    ("9.5, 9.6", MIB, (None, 1000), (64, 128, 256, 512, 1 << 10, 2 << 10)),
))
@pytest.mark.parametrize("opcode", (Opcode.TEXT, Opcode.BINARY))
def test_large_messages_in_frames_and_pieces_of_any_size(serve, case, size, fragments, chops, opcode):
    if opcode is Opcode.TEXT:
        # Three bytes each: frames and pieces end within them.
        payload = ("€" * (size // 3 + 1)).encode()[:size // 3 * 3]
    else:
        payload = bytes(range(251)) * (size // 251 + 1)
    server = serve(application(echo), websocket_options=Options(max_message_size=17 * MIB))
    with Client(server) as client:
        for fragment in fragments:
            for chop in chops:
                assert_echo(client, opcode, payload[:size], fragment, chop)


@pytest.mark.parametrize("size", (0, 16, 64, 256, 1024, 4096))
@pytest.mark.parametrize("opcode", (Opcode.TEXT, Opcode.BINARY))
def test_a_thousand_messages_in_a_row(serve, size, opcode):   # cases 9.7 and 9.8
    frames = masked_frame(0x80 | opcode, b"x" * size) * 1000
    with Client(serve(application(echo))) as client, client.sock.makefile("rb") as file:
        sender = gevent.spawn(client.sock.sendall, frames)
        for _ in range(1000):
            assert read_unmasked_frame(file) == (0x80 | opcode, b"x" * size)
        sender.get()


#: The sizes of groups 12 and 13, each with that of its frames.
SIZES = (*((size, size) for size in (16, 64, 256, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10)),
         (8 << 10, 256), (128 << 10, 4 << 10), (128 << 10, 32 << 10))
#: What their messages are made of.
CONTENTS = {
    "JSON": lambda size: "".join(f'{{"number": {n}, "square": {n * n}}}, ' for n in range(size // 20 + 2))[:size],
    "repeated": lambda size: ("No wheel is round for ever. " * (size // 28 + 1))[:size],
    "not ASCII": lambda size: "".join(chr(0x400 + n * n % 251) for n in range(size // 2)),
    "random": lambda size: random.Random(size).randbytes(size),
}


def offer(alone=None, server_bits=None, client_bits=None):
    """Return an offer of compression, each message *alone* or not, with windows of so many bits."""
    return ClientPerMessageDeflateFactory(
        server_no_context_takeover=bool(alone), client_no_context_takeover=bool(alone),
        server_max_window_bits=server_bits, client_max_window_bits=client_bits,
    )


ALONE = "server_no_context_takeover; client_no_context_takeover; "


@pytest.mark.parametrize(("offers", "agreed"), (
    ([offer()], "server_max_window_bits=12"),                                                   # 12.*, 13.1
    ([offer(True)], f"{ALONE}server_max_window_bits=12"),                                       # 13.2
    ([offer(False, 9, 9)], "server_max_window_bits=9; client_max_window_bits=9"),               # 13.3
    ([offer(False, 15, 15)], "server_max_window_bits=12; client_max_window_bits=12"),           # 13.4
    ([offer(True, 9, 9)], f"{ALONE}server_max_window_bits=9; client_max_window_bits=9"),        # 13.5
    ([offer(True, 15, 15)], f"{ALONE}server_max_window_bits=12; client_max_window_bits=12"),    # 13.6
    ([offer(True, 9, 9), offer(True), offer()],
     f"{ALONE}server_max_window_bits=9; client_max_window_bits=9"),                             # 13.7
    ([offer(False, 10, 14)], "server_max_window_bits=10; client_max_window_bits=12"),
    ([offer(False, None, 11)], "server_max_window_bits=12; client_max_window_bits=11"),
))
@pytest.mark.parametrize("content", CONTENTS)
def test_compressed_messages_of_any_size_and_window(serve, offers, agreed, content):
    with Client(serve(application(echo)), extensions=offers) as client:
        assert client.response.headers["Sec-WebSocket-Extensions"] == f"permessage-deflate; {agreed}"
        for size, fragment in SIZES:
            message = CONTENTS[content](size)
            encoded = message.encode() if isinstance(message, str) else message
            begin = client.protocol.send_text if isinstance(message, str) else client.protocol.send_binary
            for place in range(0, len(encoded), fragment):
                send = client.protocol.send_continuation if place else begin
                send(encoded[place:place + fragment], fin=place + fragment >= len(encoded))
            client.flush()
            assert client.receive() == message


# -- what the protocol forbids, and limits ----------------------------------------------------------------


@pytest.mark.parametrize(("frame", "code"), (
    (b"\x81\x05hello", 1002),                                   # not masked
    (b"\xc1\x80\0\0\0\0", 1002),                                # reserved bit
    (b"\x83\x80\0\0\0\0", 1002),                                # reserved opcode
    (b"\x09\x80\0\0\0\0", 1002),                                # fragmented ping
    (b"\x80\x80\0\0\0\0", 1002),                                # continues nothing
    (b"\x81\x81\0\0\0\0\xff", 1007),                            # not UTF-8
    (b"\x82\xff" + struct.pack("!Q", 1 << 62) + b"\0" * 4, 1009),
    (b"\x82\xff" + struct.pack("!Q", (1 << 20) + 1) + b"\0" * 4, 1009),
    (b"\x88\x82\0\0\0\0" + struct.pack("!H", 1005), 1002),      # a code that may not be sent
), ids=("unmasked", "reserved bit", "reserved opcode", "fragmented control", "continuation of nothing", "no UTF-8",
        "endless", "a byte too much", "reserved code"))
def test_violations_close_the_connection_with_the_code_of_section_7_4(serve, frame, code):
    ended = Event()
    codes = []

    def function(ws):
        assert ws.receive() is None
        codes.append(ws.close_code)
        ended.set()

    with Client(serve(application(function))) as client:
        client.sock.sendall(frame)
        assert client.finish() == code
        assert ended.wait(10)
    assert codes == [code]


def test_what_inflates_beyond_the_limit_is_refused(serve):
    server = serve(application(echo), websocket_options=Options(max_message_size=100_000))
    with Client(server, compresses=True) as client:
        client.send(b"\0" * 100_000)
        assert client.receive() == b"\0" * 100_000
        client.send(b"\0" * 50_000_000)
        assert client.finish() == 1009


@pytest.mark.parametrize(("name", "value"), (
    ("max_message_size", 0), ("max_message_size", 1.5), ("compression_level", 10), ("window_bits", 8),
    ("window_bits", 16), ("ping_interval", 0), ("ping_timeout", -1), ("close_timeout", -1), ("close_timeout", None),
    ("ping_interval", "1"),
))
def test_options_out_of_range_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        Options(**{name: value})
    assert repr(value) in str(caught.value)


# -- sending ----------------------------------------------------------------------------------------------


def test_kinds_of_messages(serve):
    refused = []

    def function(ws):
        ws.send(bytearray(b"one"))
        ws.send(memoryview(b"xtwo")[1:])
        ws.send(b"three", binary=False)
        ws.send("four", binary=True)
        for bad, options in ((5, {}), (None, {}), (b"\xff", {"binary": False}), ("\ud800", {})):
            try:
                ws.send(bad, **options)
            except (TypeError, ValueError) as error:
                refused.append(type(error))
        with pytest.raises(WebSocketError):
            ws.ping(b"x" * 126)

    with Client(serve(application(function))) as client:
        assert [client.receive() for _ in range(4)] == [b"one", b"two", "three", b"four"]
        assert client.finish() == 1000
    assert refused == [TypeError, TypeError, ValueError, UnicodeEncodeError]


@pytest.mark.parametrize("compresses", (False, True))
def test_messages_of_many_senders_do_not_mix(serve, compresses):
    def function(ws):
        senders = [gevent.spawn(lambda n: [ws.send(bytes([n]) * 200_000) for _ in range(5)], n) for n in range(10)]
        gevent.joinall(senders, raise_error=True)

    with Client(serve(application(function)), compresses=compresses) as client:
        counts = [0] * 10
        for _ in range(50):
            message = client.receive()
            assert message == message[:1] * 200_000
            counts[message[0]] += 1
        assert counts == [5] * 10
        assert client.finish() == 1000


def test_one_may_receive_while_others_send(serve):
    def function(ws):
        sender = gevent.spawn(lambda: [ws.send(f"tick {number}") for number in range(100)])
        for message in ws:
            ws.send(message)
        sender.join()

    with Client(serve(application(function))) as client:
        client.send("hello")
        seen = {client.receive() for _ in range(101)}
        assert seen == {"hello", *(f"tick {number}" for number in range(100))}
        client.protocol.send_close(1000, "")
        client.flush()
        assert client.finish() == 1000


def test_two_cannot_receive_at_once(serve):
    errors = []

    def function(ws):
        first = gevent.spawn(ws.receive)
        gevent.sleep(0)
        try:
            ws.receive()
        except gevent.exceptions.ConcurrentObjectUseError as error:
            errors.append(error)
        ws.send("go on")
        assert first.get() == "hello"

    with Client(serve(application(function))) as client:
        assert client.receive() == "go on"
        client.send("hello")
        assert client.finish() == 1000
    assert len(errors) == 1


# -- ends -------------------------------------------------------------------------------------------------


def test_an_application_that_returns_closes(serve):
    with Client(serve(application(lambda ws: ws.send("one")))) as client:
        assert client.receive() == "one"
        assert client.finish() == 1000


def test_an_application_that_raises_closes_with_1011(serve, errors):
    def function(ws):
        raise RuntimeError("broken on purpose")

    server = serve(application(function))
    with Client(server) as client:
        assert client.finish() == 1011
    assert "broken on purpose" in errors.getvalue() + server.error_log.getvalue()


@pytest.mark.parametrize("closes", [False, True])
def test_application_that_talks_to_a_client_that_is_gone_is_not_worth_a_word(serve, errors, closes):
    ended = Event()

    def function(ws):
        if closes:
            ws.close()
        else:
            assert ws.receive() is None
        try:
            ws.send("too late")
        finally:
            ended.set()

    server = serve(application(function))
    with Client(server) as client:
        if not closes:
            client.protocol.send_close(1000)
            client.flush()
        assert client.finish() == 1000
        assert ended.wait(10)
    while len(server._service):
        gevent.sleep(0.01)
    # Who has closed, and sends, is told.
    assert ("the WebSocket is closed" in errors.getvalue()) == closes


def test_code_and_reason_of_the_peer_are_told(serve):
    ended = Event()
    seen = []

    def function(ws):
        assert ws.receive() is None
        seen.append((ws.closed, ws.close_code, ws.close_reason))
        with pytest.raises(WebSocketError, match="closed"):
            ws.send("too late")
        ws.close()
        assert ws.receive() is None
        assert list(ws) == []
        ended.set()

    with Client(serve(application(function))) as client:
        client.protocol.send_close(4000, "tired")
        client.flush()
        assert client.finish() == 4000
        assert ended.wait(10)
    assert seen == [(True, 4000, "tired")]


def test_close_with_code_and_reason(serve):
    refused = []

    def function(ws):
        for arguments in ((1005,), (999,), (1000, "x" * 124)):
            with pytest.raises(WebSocketError) as caught:
                ws.close(*arguments)
            refused.append(caught.value)
        ws.close(4321, "go away")
        assert ws.close_code == 4321

    with Client(serve(application(function))) as client:
        client.flush()
        frame = client.next()
        assert (frame.opcode, frame.data) == (Opcode.CLOSE, struct.pack("!H", 4321) + b"go away")
        client.flush()
        assert client.finish() == 4321
    assert len(refused) == 3


def test_a_peer_that_vanishes_ends_the_loop(serve):
    ended = Event()
    codes = []

    def function(ws):
        for _ in ws:
            pass
        codes.append(ws.close_code)
        ended.set()

    with Client(serve(application(function))) as client:
        client.send("hello")
    assert ended.wait(10)
    assert codes == [1006]


def test_stopping_the_server_says_going_away(serve):
    entered = Event()

    def function(ws):
        entered.set()
        ws.receive()

    server = serve(application(function), spawn=Pool(10))
    with Client(server) as client:
        assert entered.wait(10)
        server.stop(timeout=0)
        assert client.finish() == 1001


@pytest.mark.parametrize("receives", [True, False])
def test_a_server_that_drains_says_going_away_and_waits_for_the_answer(serve, receives):
    entered, go = Event(), Event()
    seen = []

    def function(ws):
        entered.set()
        if receives:
            seen.append((ws.receive(), ws.close_code))
            return
        go.wait()
        with pytest.raises(WebSocketError):
            ws.send("late")
        seen.append(ws.closed)

    server = serve(application(function))
    with Client(server) as client:
        assert entered.wait(10)
        stopping = gevent.spawn(server.stop, timeout=60)
        frame = client.next()
        assert (frame.opcode, frame.data) == (Opcode.CLOSE, struct.pack("!H", 1001))
        assert not stopping.ready()
        client.flush()
        go.set()
        assert client.finish() == 1001
        stopping.get(timeout=30)
    assert seen == [(None, 1001) if receives else True]


def test_a_peer_that_does_not_answer_going_away_is_given_up(serve):
    entered = Event()
    codes = []

    def function(ws):
        entered.set()
        assert ws.receive() is None
        codes.append(ws.close_code)

    server = serve(application(function), websocket_options=Options(close_timeout=0.05))
    with Client(server):
        assert entered.wait(10)
        server.stop(timeout=60)
        assert codes == [1006]
        assert len(server._service) == 0


def test_a_websocket_that_opens_while_the_server_drains_is_told_at_once(serve):
    entered, go = Event(), Event()

    def wsgi(environ, start_response):
        entered.set()
        go.wait()
        assert environ["wsgi.websocket"].receive() is None
        return []

    server = serve(wsgi)
    with Client(server, opens=False) as client:
        assert entered.wait(10)
        stopping = gevent.spawn(server.stop, timeout=60)
        gevent.sleep(0)
        go.set()
        assert client.finish() == 1001
        stopping.get(timeout=30)


def test_a_silent_peer_is_pinged_and_given_up(serve):
    ended = Event()
    codes = []

    def function(ws):
        assert ws.receive() is None
        codes.append(ws.close_code)
        ended.set()

    server = serve(application(function), websocket_options=Options(ping_interval=0.01, ping_timeout=0.01))
    with Client(server) as client:
        assert client.next().opcode is Opcode.PING
        # It is not answered.
        assert ended.wait(10)
    assert codes == [1011]


def test_a_peer_that_answers_pings_stays(serve):
    options = Options(ping_interval=0.005, ping_timeout=30)
    with Client(serve(application(echo), websocket_options=options)) as client:
        for _ in range(5):
            assert client.next().opcode is Opcode.PING
            client.flush()
        client.send("still here")
        while (frame := client.next()).opcode is Opcode.PING:
            client.flush()
        assert frame.data == b"still here"


# -- a wait that is given up ------------------------------------------------------------------------------


def test_a_receive_that_is_given_up_loses_nothing(serve):
    steps = []

    def function(ws):
        with pytest.raises(TimeoutError):
            ws.receive(timeout=0.001)
        with gevent.Timeout(0.001, False):
            ws.receive()
        receiver = gevent.spawn(ws.receive)
        gevent.sleep(0)
        receiver.kill()
        steps.append("given up thrice")
        ws.send("now")
        steps.append(ws.receive(timeout=10))

    with Client(serve(application(function))) as client:
        # Half a frame arrives before, the other half after.
        client.sock.sendall(bytes([0x81, 0x85, 0, 0, 0, 0]) + b"he")
        assert client.receive() == "now"
        client.sock.sendall(b"llo")
        assert client.finish() == 1000
    assert steps == ["given up thrice", "hello"]


def test_a_send_that_is_killed_ends_the_connection_since_a_frame_is_cut(serve):
    after = []
    ended = Event()

    def function(ws):
        sender = gevent.spawn(ws.send, b"x" * 50_000_000)
        gevent.sleep(0)
        assert not sender.ready()
        sender.kill()
        try:
            ws.send("hello")
        except WebSocketError as error:
            after.append(str(error))
        ended.set()

    with Client(serve(application(function), websocket_options=Options(close_timeout=0))) as client:
        assert ended.wait(10)
        with pytest.raises(EOFError):
            while client.next() is not None:
                pass
            raise client.protocol.close_exc if client.protocol.parser_exc is None else client.protocol.parser_exc
    assert after and "closed" in after[0]


def test_a_sender_that_waits_for_another_can_be_given_up(serve):
    # The client does not read before, so the first sender cannot end.
    given_up = Event()

    def function(ws):
        first = gevent.spawn(ws.send, b"x" * 20_000_000)
        gevent.sleep(0)
        with gevent.Timeout(0.01, False):
            ws.send("never")
        given_up.set()
        ws.send("after")
        first.get()

    with Client(serve(application(function), websocket_options=Options(compression=False))) as client:
        assert given_up.wait(10)
        seen = [client.receive(), client.receive()]
        assert client.finish() == 1000
    assert seen == [b"x" * 20_000_000, "after"]


def test_objects_are_freed(serve):
    import gc
    import weakref

    references = []

    def function(ws):
        references.append(weakref.ref(ws))
        ws.mine = None if not hasattr(ws, "__dict__") else ws
        assert ws.environ["PATH_INFO"] == "/x"
        ws.receive()

    def run(ws):
        try:
            function(ws)
        except AttributeError:
            ws.receive()

    with Client(serve(application(run)), path="/x") as client:
        client.protocol.send_close(1000, "")
        client.flush()
        client.finish()
    for _ in range(10):
        gevent.sleep(0)
    gc.collect()
    assert [reference() for reference in references] == [None]
