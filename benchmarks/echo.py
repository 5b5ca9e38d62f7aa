"""Servers of echo_server.py under redis-benchmark, in turns, each on the first processor and its load on the second.

usage: python echo.py [--rounds 5] [--connections 50] NAME=PYTHON [NAME=PYTHON --uvloop]...

For each server, and for 1 and 16 requests at once on a connection (`-P`), the medians of: requests per second, and the
processor time that a request costs the server, the kernel's work for it included, in µs. redis-benchmark itself is the
limit of the first where the second is small.
"""
import argparse
import collections
import os
import re
import shlex
import socket
import statistics
import subprocess
import time

#: Requests of one run, by how many are sent at once.
REQUESTS = {1: 150_000, 16: 600_000}


def processor_us(pid):
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1000


def wait_until_ready(process, port):
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{shlex.join(process.args)} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit(f"{shlex.join(process.args)} does not listen on port {port}")


def run(port, connections, at_once):
    """Return the requests per second that redis-benchmark reports."""
    command = ["taskset", "-c", "1", "redis-benchmark", "-p", str(port), "-t", "ping_inline", "-q",
               "-n", str(REQUESTS[at_once]), "-c", str(connections), "-P", str(at_once)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    return float(re.findall(r"([\d.]+) requests per second", output)[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("servers", nargs="+", metavar="NAME=PYTHON")
    arguments = parser.parse_args()
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "echo_server.py")
    port = 20000 + os.getpid() % 10000
    found = collections.defaultdict(list)
    for _ in range(arguments.rounds):
        for server in arguments.servers:
            name, _, command = server.partition("=")
            python, *options = shlex.split(command)
            port += 1
            process = subprocess.Popen(["taskset", "-c", "0", python, script, *options, str(port)])
            try:
                wait_until_ready(process, port)
                for at_once in REQUESTS:
                    before = processor_us(process.pid)
                    rate = run(port, arguments.connections, at_once)
                    cost = (processor_us(process.pid) - before) / REQUESTS[at_once]
                    found[at_once, name].append((rate, cost))
            finally:
                process.terminate()
                process.wait()
    for (at_once, name), values in sorted(found.items()):
        rate, cost = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"-P {at_once:<3} {name:10} {rate:12,.0f}/s {cost:8.2f} µs")


if __name__ == "__main__":
    main()
