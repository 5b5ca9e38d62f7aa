"""Real servers for tests: found, started on free ports of the loopback interface, and ended by their pid.

A test that needs a program which is missing skips, and says so; where programs can be installed (by root) or have to
be there (REQUIRE_TEST_PROGRAMS, as in `.ci/run`), it fails. `programs.txt` lists them.
"""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

__all__ = ["find_program", "free_port", "start", "until"]

# Servers are outside an ordinary user's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def find_program(name):
    """Return the path of the program `name`; skips or fails the test when it is missing."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        message = f"{name} is not installed: scripts/install-test-programs installs what the tests start"
        if os.environ.get("REQUIRE_TEST_PROGRAMS") or os.geteuid() == 0:
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port(host="127.0.0.1"):
    """Return a port of `host` on which neither TCP nor UDP is in use at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((host, 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


def until(condition, what, patience=30):
    """Wait until `condition()` is true, and return it; fails with `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what} within {patience} s"
        time.sleep(0.01)
    return found


class start:
    """Run `command` (a list) until the block is left; it has `patience` seconds until `is_ready()` is true.

    The context is the subprocess.Popen. The program is ended by the signal `end_by`, by SIGKILL if that does not help
    in `end_within` seconds. What it prints is shown when it ends too early or isn't ready in time.
    """

    def __init__(self, command, is_ready, patience=20, end_by=signal.SIGTERM, end_within=10, **popen):
        self.command, self.is_ready, self.patience, self.popen = command, is_ready, patience, popen
        self.end_by, self.end_within = end_by, end_within
        self.process = None

    def __enter__(self):
        # A file takes whatever it prints; a pipe that nobody reads would stop it.
        with tempfile.TemporaryFile() as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **self.popen
            )
            until = time.monotonic() + self.patience
            while not self.is_ready():
                ended = self.process.poll() is not None
                if ended or time.monotonic() > until:
                    self.process.kill()
                    self.process.wait()
                    what = f"ended with {self.process.returncode}" if ended else f"is not ready after {self.patience} s"
                    output.seek(0)
                    raise RuntimeError(f"{self.command[0]} {what}:\n{output.read().decode(errors='replace')}")
                time.sleep(0.02)
        return self.process

    def __exit__(self, *exc_info):
        self.process.send_signal(self.end_by)
        try:
            self.process.wait(timeout=self.end_within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
