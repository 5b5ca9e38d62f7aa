"""TLS: requests over an open connection, handshakes, and the memory that very many connections leave behind.

usage: python tls.py [--requests 20000] [--connections 10000]

Client and server are greenlets of this process. The certificate, for a P-256 key, is made by the program openssl.
Prints one JSON object:

requests_per_second
    4 bytes to a `StreamServer` and 100 back, over one TLS 1.3 connection; the best of three repeats.
connections_per_second
    Connect, a full handshake, one request, close; over `--connections` of them.
resident_kib
    The process's resident memory after each tenth of these connections, in KiB, after a collection of garbage.
descriptors
    How many descriptors were open before the connections, and after them.
"""
import argparse
import gc
import json
import os
import resource
import subprocess
import tempfile
import time

import gevent
from gevent import socket, ssl
from gevent.server import StreamServer

REPEATS = 3


def contexts():
    """Return the contexts of a server with a new certificate, and of a client that trusts anyone."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "certificate.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )
        server.load_cert_chain(certificate, key)
    return server, client


def handle(connection, address):
    # Else the first answer waits for the acknowledgement of the session tickets, 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while connection.recv(4096):
        connection.sendall(b"x" * 100)


def resident_kib():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=10_000)
    arguments = parser.parse_args()
    server_context, client_context = contexts()
    server = StreamServer(("127.0.0.1", 0), handle, ssl_context=server_context)
    server.start()

    def connected():
        return client_context.wrap_socket(socket.create_connection(server.address))

    def ask(connection):
        connection.sendall(b"ping")
        assert len(connection.recv(1000)) == 100

    best = 0.0
    with connected() as connection:
        for _ in range(REPEATS):
            began = time.perf_counter()
            for _ in range(arguments.requests):
                ask(connection)
            best = max(best, arguments.requests / (time.perf_counter() - began))

    gevent.sleep(0.01)
    descriptors, resident, elapsed = [len(os.listdir("/proc/self/fd"))], [], 0.0
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(arguments.connections // 10):
            with connected() as connection:
                ask(connection)
        elapsed += time.perf_counter() - began
        gevent.sleep(0.01)
        resident.append(resident_kib())
    descriptors.append(len(os.listdir("/proc/self/fd")))
    server.stop()
    print(json.dumps({
        "requests_per_second": round(best),
        "connections_per_second": round(arguments.connections // 10 * 10 / elapsed),
        "resident_kib": resident,
        "descriptors": descriptors,
    }))


if __name__ == "__main__":
    main()
