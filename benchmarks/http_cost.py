"""What a request costs each server of http_app.py: processor time, which other load on the machine hardly moves.

usage: python http_cost.py [--rounds 3] [--seconds 1] NAME=COMMAND ...

Each COMMAND listens on 127.0.0.1 at the port that replaces {} in it. The servers take turns, on processor 0; wrk is on
processor 1. The processor time of a server is that of all its processes and threads, by /proc/PID/task/*/schedstat.
Prints, for 50 and 500 connections that are kept or closed, and both paths, the median microseconds for each request,
and requests per second, which wrk sees.
"""
import argparse
import collections
import os
import re
import signal
import socket
import statistics
import subprocess
import time

MODES = [(count, closes, path) for closes in (False, True) for count in (50, 500) for path in ("/", "/big")]


def tree(pid):
    """Return `pid` and all processes below it."""
    found = [pid]
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            for child in file.read().split():
                found += tree(int(child))
    return found


def processor_time(pid):
    """Return the seconds that the process `pid` and those below it have run."""
    total = 0
    for process in tree(pid):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def wait_until_ready(process, port):
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit(f"{process.args} does not answer")


def load(port, count, closes, path, seconds):
    """Return the number of requests that wrk made, and its rate."""
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{count}", f"-d{seconds}s"]
    if closes:
        command += ["-H", "Connection: close"]
    report = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    requests = int(re.search(r"(\d+) requests in", report.stdout)[1])
    return requests, float(re.search(r"Requests/sec:\s+([\d.]+)", report.stdout)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    arguments = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    servers = [server.split("=", 1) for server in arguments.servers]
    results = collections.defaultdict(list)
    port = 20000 + os.getpid() % 10000
    for _ in range(arguments.rounds):
        for name, command in servers:
            port += 1
            process = subprocess.Popen(
                ["taskset", "-c", "0", *command.replace("{}", str(port)).split()], start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=here),
            )
            try:
                wait_until_ready(process, port)
                for mode in MODES:
                    before = processor_time(process.pid)
                    requests, rate = load(port, *mode, arguments.seconds)
                    cost = processor_time(process.pid) - before
                    results[mode, name].append((cost / max(1, requests) * 1e6, rate))
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    for mode in MODES:
        count, closes, path = mode
        figures = []
        for name, _ in servers:
            costs, rates = zip(*results[mode, name], strict=True)
            figures.append(f"{name} {statistics.median(costs):6.1f} us {statistics.median(rates):7.0f}/s")
        print(f"{count:4} {'closed' if closes else 'kept':6} {path:5}", "   ".join(figures), flush=True)


if __name__ == "__main__":
    main()
