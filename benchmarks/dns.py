"""Look-ups a second by a resolver of this interpreter's gevent, against a dnsmasq of its own.

usage: python dns.py [--resolver NAME] [--seconds 3]        NAME as in GEVENT_RESOLVER: thread, native, ares

Prints one JSON object, look-ups a second: of names that were not asked for before, by one greenlet and by 200 at once;
of one name again and again; and of new names at a server 20 ms away, by 200 at once. A look-up is that of
`create_connection`: getaddrinfo for both address families. dnsmasq (Debian's dnsmasq-base) runs on a free loopback
port.
"""
import argparse
import heapq
import json
import os
import select
import shutil
import socket as system
import subprocess
import sys
import tempfile
import threading
import time

import gevent
from gevent import socket

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
from system_resolver import ask_at

FAR = 0.02   # seconds
AT_ONCE = 200


def relay(server_port):
    """Pass datagrams to the server and back for ever, each way in half of FAR; prints the port to send them to."""
    listener, upstream = (system.socket(type=system.SOCK_DGRAM) for _ in range(2))
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    under_way, clients, number = [], {}, 0
    while True:
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, link, data, address = heapq.heappop(under_way)
            link.sendto(data, address)
        wait = max(under_way[0][0] - time.monotonic(), 0) if under_way else None
        for link in select.select([listener, upstream], [], [], wait)[0]:
            data, address = link.recvfrom(4096)
            number += 1
            if link is listener:
                # Clients may choose the same id.
                own = (number % 65536).to_bytes(2, "big")
                clients[own] = data[:2], address
                passed = upstream, own + data[2:], ("127.0.0.1", server_port)
            else:
                own, address = clients.pop(data[:2])
                passed = listener, own + data[2:], address
            heapq.heappush(under_way, (time.monotonic() + FAR / 2, number, *passed))


def make_resolver(name, port):
    """Return a resolver that asks at a port."""
    gevent.config.resolver = name
    if name != "thread":
        return gevent.config.resolver(servers=["127.0.0.1"], udp_port=port, tcp_port=port)
    resolver = gevent.config.resolver()
    everywhere = threading.Barrier(resolver.pool.maxsize)

    def prepare():
        everywhere.wait()
        ask_at(port)

    gevent.joinall([gevent.spawn(resolver.pool.apply, prepare) for _ in range(everywhere.parties)], raise_error=True)
    return resolver


def measure(resolver, name_of, count, seconds):
    """Return the look-ups a second of `count` greenlets; `name_of(n)` is the name of the n-th look-up."""
    done = 0
    end = time.perf_counter() + seconds

    def look_up():
        nonlocal done
        while time.perf_counter() < end:
            done += 1
            found = resolver.getaddrinfo(name_of(done), 80, 0, socket.SOCK_STREAM)
            # gevent's ares gives the addresses of one family, now and then.
            assert {entry[4][0] for entry in found} & {"192.0.2.1", "2001:db8::1"}, found

    began = time.perf_counter()
    gevent.joinall([gevent.spawn(look_up) for _ in range(count)], raise_error=True)
    return round(done / (time.perf_counter() - began))


def main():
    """Start the server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolver", default="thread", help="a name of GEVENT_RESOLVER (thread)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes (3)")
    parser.add_argument("--relay", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.relay:
        relay(arguments.relay)
    with system.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([
            shutil.which("dnsmasq") or "/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
            "--no-resolv", "--no-hosts", "--pid-file=", "--user=", "--group=", f"--port={port}",
            "--listen-address=127.0.0.1", "--bind-interfaces", "--address=/test/192.0.2.1",
            "--address=/test/2001:db8::1", "--local-ttl=300", f"--log-facility={folder}/log",
        ])
        far = subprocess.Popen([sys.executable, __file__, "--relay", str(port)], stdout=subprocess.PIPE, text=True)
        try:
            far_port = int(far.stdout.readline())
            while system.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.01)
            found = {}
            resolver = make_resolver(arguments.resolver, port)
            for what, count, name_of in (
                ("one after another", 1, lambda number: f"a{number}.test"),
                (f"{AT_ONCE} at once", AT_ONCE, lambda number: f"b{number}.test"),
                ("the same name", 1, lambda number: "c.test"),
            ):
                found[what] = measure(resolver, name_of, count, arguments.seconds)
            resolver.close()
            resolver = make_resolver(arguments.resolver, far_port)
            found[f"{AT_ONCE} at once, {FAR * 1000:.0f} ms away"] = measure(
                resolver, lambda number: f"d{number}.test", AT_ONCE, arguments.seconds)
            resolver.close()
            print(json.dumps(found))
        finally:
            for process in (far, server):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
