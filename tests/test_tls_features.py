"""What TLS offers beyond a connection: sessions, client certificates, names, protocols, and an end in good order."""
import socket as stdlib_socket
import ssl as stdlib_ssl
import subprocess
import threading

import gevent
import pytest
from gevent import socket, ssl
from gevent.exceptions import ConcurrentObjectUseError
from gevent.server import StreamServer


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder, and certificates that it signed."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self.key = folder / "authority.key"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", self.key, "-out", self.certificate)

    def sign(self, name):
        """Return the files of a certificate for the host *name*, and of its key."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extension = self.folder / f"{name}.ext"
        # RFC 5280, 4.2.1.1: what CPython demands from 3.13 on.
        identifiers = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        extension.write_text(f"subjectAltName=DNS:{name}\n{identifiers}")
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        run("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
            "-days", "2", "-extfile", extension, "-out", certificate)
        return certificate, key


def trusting(authority=None):
    """Return the context of a client that trusts the authority alone."""
    # `create_default_context` of the real gevent makes the standard library's, unless that is patched.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        context.load_verify_locations(str(authority.certificate))
    return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificates(authority):
    return {name: authority.sign(name) for name in ("localhost", "other.example", "client.example")}


@pytest.fixture
def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["localhost"])
    return context


@pytest.fixture
def client_context(authority):
    return trusting(authority)


@pytest.fixture(autouse=True)
def limit():
    with gevent.Timeout(20):
        yield


def handshake(server_context, client_context, server_hostname="localhost", session=None):
    """Return the two ends of a new connection: the server's, or its error, and the client's, or its error."""
    left, right = socket.socketpair()

    def wrap(context, sock, **arguments):
        try:
            return context.wrap_socket(sock, **arguments)
        except OSError as error:
            sock.close()
            return error

    serving = gevent.spawn(wrap, server_context, left, server_side=True)
    asking = gevent.spawn(wrap, client_context, right, server_hostname=server_hostname, session=session)
    gevent.joinall([serving, asking], raise_error=True)
    return serving.value, asking.value


def exchange(server, client):
    """Send a byte each way: what arrives shows that the connection works, and brings the client its session."""
    server.sendall(b"s")
    assert client.recv(1) == b"s"
    client.sendall(b"c")
    assert server.recv(1) == b"c"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_reused(server_context, client_context, version):
    server_context.maximum_version = version
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        assert client.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert not client.session_reused
        session = client.session
    server, client = handshake(server_context, client_context, session=session)
    with server, client:
        exchange(server, client)
        assert client.session_reused and server.session_reused


def test_session_of_another_context_is_refused(authority, server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        session = client.session
    another = trusting(authority)
    left, right = socket.socketpair()
    with left, right, pytest.raises(ValueError, match=r"[Ss]ession"):
        another.wrap_socket(right, server_hostname="localhost", session=session)


def test_server_sees_the_certificate_of_its_client(authority, certificates, server_context, client_context):
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(str(authority.certificate))
    client_context.load_cert_chain(*certificates["client.example"])
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        assert (("commonName", "client.example"),) in server.getpeercert()["subject"]
        assert (("commonName", "localhost"),) in client.getpeercert()["subject"]


def test_client_without_the_certificate_that_is_demanded_is_refused(authority, server_context, client_context):
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(str(authority.certificate))
    server, client = handshake(server_context, client_context)
    assert isinstance(server, ssl.SSLError) and "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(server)
    # In TLS 1.3 the client is done before the server looks; the refusal comes with its first read.
    if not isinstance(client, OSError):
        with client, pytest.raises(OSError):
            client.recv(1)


def test_server_of_an_unknown_authority_and_one_of_another_name_are_refused(server_context, client_context):
    _server, client = handshake(server_context, trusting())
    assert isinstance(client, ssl.SSLCertVerificationError) and client.verify_code in (18, 19, 20, 21)
    _server, client = handshake(server_context, client_context, server_hostname="other.example")
    assert isinstance(client, ssl.SSLCertVerificationError) and "other.example" in str(client)


def test_callback_chooses_the_context_by_the_name_asked_for(certificates, server_context, client_context):
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(*certificates["other.example"])
    asked = []

    def choose(connection, name, context):
        asked.append((name, context is server_context))
        if name == "other.example":
            connection.context = other
        elif name == "nobody.example":
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    server_context.sni_callback = choose
    for name in ("localhost", "other.example"):
        server, client = handshake(server_context, client_context, server_hostname=name)
        with server, client:
            exchange(server, client)
            assert (("commonName", name),) in client.getpeercert()["subject"]
    server, client = handshake(server_context, client_context, server_hostname="nobody.example")
    assert isinstance(server, OSError)
    assert isinstance(client, ssl.SSLError) and "UNRECOGNIZED_NAME" in str(client)
    assert asked == [("localhost", True), ("other.example", True), ("nobody.example", True)]


def test_both_ends_agree_on_a_protocol(server_context, client_context):
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["http/1.1", "spdy/3"])
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        assert server.selected_alpn_protocol() == client.selected_alpn_protocol() == "http/1.1"


def test_unwrap_ends_tls_and_leaves_the_plain_connection(server_context, client_context):
    server, client = handshake(server_context, client_context)
    exchange(server, client)
    ending = [gevent.spawn(end.unwrap) for end in (server, client)]
    gevent.joinall(ending, raise_error=True)
    plain_server, plain_client = (greenlet.value for greenlet in ending)
    with plain_server, plain_client:
        plain_client.sendall(b"in the clear")
        assert plain_server.recv(100) == b"in the clear"
        with pytest.raises(ValueError):
            plain_server.unwrap()


def test_one_end_is_told_by_the_other_that_tls_ends(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        ending = gevent.spawn(client.unwrap)
        assert server.recv(1) == b""
        server.unwrap()
        ending.get()


def test_handshake_with_a_silent_peer_times_out(client_context):
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(0.02)
        with pytest.raises(TimeoutError, match="handshake"):
            client_context.wrap_socket(right, server_hostname="localhost")


def test_read_of_a_silent_peer_times_out_and_the_connection_goes_on(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        client.settimeout(0.02)
        with pytest.raises(TimeoutError, match="read"):
            client.recv(1)
        with pytest.raises(TimeoutError, match="read"):
            client.recv_into(bytearray(1))
        client.settimeout(10)
        exchange(server, client)


def test_write_to_a_peer_that_does_not_read_times_out(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        client.settimeout(0.02)
        with pytest.raises(TimeoutError, match="timed out"):
            while True:
                client.sendall(b"x" * 65536)


def test_unwrap_times_out_where_the_peer_does_not_answer(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        client.settimeout(0.02)
        with pytest.raises(TimeoutError):
            client.unwrap()


@pytest.mark.parametrize("operation", ["handshake", "read", "write", "unwrap"])
def test_timeout_of_the_caller_ends_each_operation(server_context, client_context, operation):
    if operation == "handshake":
        left, client = socket.socketpair()
        with left, client, pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            client_context.wrap_socket(client, server_hostname="localhost")
        return
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            if operation == "read":
                client.recv(1)
            elif operation == "write":
                client.sendall(b"x" * 10_000_000)
            else:
                client.unwrap()


@pytest.mark.ours_only("gevent begins the time-out anew with each wait")
def test_timeout_is_for_the_whole_handshake(client_context):
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(0.2)

        def drip():
            # The head of a record of 16,384 bytes, and its bytes one by one: each ends a wait.
            left.sendall(b"\x16\x03\x03\x40\x00")
            while True:
                gevent.sleep(0.02)
                left.sendall(b"\x02")

        dripping = gevent.spawn(drip)
        with pytest.raises(TimeoutError, match="handshake"):
            client_context.wrap_socket(right, server_hostname="localhost")
        dripping.kill()


def test_tls_in_memory_needs_no_socket(server_context, client_context):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [client, server]
    while unfinished:
        for end in list(unfinished):
            try:
                end.do_handshake()
                unfinished.remove(end)
            except ssl.SSLWantReadError:
                pass
    client.write(b"hello")
    assert server.read(100) == b"hello"
    assert client.version() == server.version()


def test_two_readers_of_one_connection_are_refused(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server, client:
        exchange(server, client)
        first = gevent.spawn(client.recv, 1)
        gevent.sleep(0)
        with pytest.raises(ConcurrentObjectUseError):
            client.recv(1)
        server.sendall(b"x")
        assert first.get() == b"x"


def test_closing_wakes_a_reader(server_context, client_context):
    server, client = handshake(server_context, client_context)
    with server:
        exchange(server, client)
        reading = gevent.spawn(client.recv, 1)
        gevent.sleep(0)
        client.close()
        with pytest.raises((OSError, ValueError)):
            reading.get()


def test_server_with_a_context_serves_a_client_that_does_not_know_of_greenlets(authority, certificates, server_context):
    server = StreamServer(("127.0.0.1", 0), lambda client, _address: client.sendall(client.recv(100)),
                          ssl_context=server_context)
    server.start()
    answers = []

    def ask():
        # In a thread, by the standard library's own classes.
        context = stdlib_ssl.create_default_context(cafile=str(authority.certificate))
        with stdlib_socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"ping")
            answers.append(tls.recv(100))

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        gevent.sleep(0.005)
    server.stop()
    assert answers == [b"ping"]
