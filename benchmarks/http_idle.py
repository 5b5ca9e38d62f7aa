"""What idle connections cost the server of a command that serves http_app.py.

usage: python http_idle.py [--count 10000] COMMAND...

COMMAND listens on 127.0.0.1 at the port that replaces {} in it. Prints KiB for each of *count* connections that were
served once: at once, and after 3 s; the memory is what the server's processes have for themselves (Pss) and their page
tables. Then requests per second of 50 other connections, by wrk, if it is installed.
"""
import argparse
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

from http_cost import tree, wait_until_ready

REQUEST = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


def memory(pid):
    """Return the KiB of the process `pid` and those below it."""
    total = 0
    for process in tree(pid):
        with open(f"/proc/{process}/smaps_rollup") as file:
            total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.MULTILINE)[1])
        with open(f"/proc/{process}/status") as file:
            total += int(re.search(r"^VmPTE:\s+(\d+)", file.read(), re.MULTILINE)[1])
    return total


def served(port):
    """Return a connection that was served once."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(REQUEST)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    return connection


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = 20000 + os.getpid() % 10000
    here = os.path.dirname(os.path.abspath(__file__))
    process = subprocess.Popen(
        [word.replace("{}", str(port)) for word in arguments.command], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=here),
    )
    try:
        wait_until_ready(process, port)
        for connection in [served(port) for _ in range(200)]:
            connection.close()
        time.sleep(2)
        before = memory(process.pid)
        connections = [served(port) for _ in range(arguments.count)]
        at_once = memory(process.pid)
        time.sleep(3)
        later = memory(process.pid)
        count = arguments.count
        print(f"{count} idle connections: {(at_once - before) / count:.1f} KiB each, "
              f"{(later - before) / count:.1f} KiB after 3 s")
        if shutil.which("wrk"):
            report = subprocess.run(["wrk", "-t1", "-c50", "-d3s", f"http://127.0.0.1:{port}/"],
                                    capture_output=True, text=True, check=True).stdout
            print(re.search(r"Requests/sec:.*", report)[0])
        assert len(connections) == count
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
