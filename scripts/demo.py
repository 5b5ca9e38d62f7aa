"""Run the six programs of the tutorial and check that each does what the tutorial says.

For each program this prints what it shows, its output as it comes, how long it took, and a list of checks. Program 2
downloads from slow web servers which this script starts itself, so nothing here needs the internet. The exit status is
0 if every check held, else 1.

The script itself uses only the standard library, and no gevent: what it measures cannot disturb how it measures.

    python scripts/demo.py                                  # with the gevent of this very python
    python scripts/demo.py --python /some/venv/bin/python   # with the gevent of another one

    cargo build --release -p greenrust --examples
    python scripts/demo.py --rust target/release/examples   # the same six programs in Rust
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PYTHON_PROGRAMS = ROOT / "examples" / "tutorial"

PROGRAM_LIMIT_S = 60.0
"""Seconds after which a program is killed; the longest of them needs 5."""

STOP_LIMIT_S = 10.0
"""Seconds that the web server may take to stop."""

SLACK_S = 1.5
"""Seconds a program may lose to a busy machine. Every check would be missed by more than this without concurrency."""


# -- what a program did ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of output, and when it came, in seconds since the program's first line."""

    seconds: float
    text: str


@dataclass(frozen=True)
class Check:
    """Whether a promise was kept, and the facts that show it."""

    passed: bool
    reason: str


class RunningProgram:
    """A program whose output is shown as it comes, and kept.

    Used as a context manager: on leaving, the program is no longer running.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.lines: list[Line] = []
        self._first_line_at: float | None = None
        self._changed = threading.Condition()
        self._ended = False
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",  # else the output would come all at once, when the program ends
            "PYTHONUTF8": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self._processor_before = processor_seconds_of_children()
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._show_output, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(timeout=1)

    def _show_output(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            now = time.monotonic()
            text = text.rstrip("\n")
            print(f"    | {text}", flush=True)
            with self._changed:
                if self._first_line_at is None:
                    self._first_line_at = now
                self.lines.append(Line(now - self._first_line_at, text))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_line(self, pattern: str, limit_s: float) -> re.Match[str] | None:
        """Wait until a line contains `pattern`; None if the output ends or `limit_s` seconds pass before."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line.text))), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, limit_s)
            return found()

    def interrupt(self) -> None:
        """Do what Ctrl+C does."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, limit_s: float) -> Finished:
        """Wait for the end of the program, and kill it after `limit_s` seconds."""
        killed = False
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            killed = True
            self._process.kill()
            self._process.wait()
        now = time.monotonic()
        self._reader.join(timeout=1)
        return Finished(
            lines=list(self.lines),
            # Without the start of the interpreter and the imports, which are no part of any promise.
            seconds=now - (self._first_line_at or now),
            total_seconds=now - self._started_at,
            processor_seconds=processor_seconds_of_children() - self._processor_before,
            exit_status=self._process.returncode,
            killed=killed,
        )


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    `seconds` counts from its first line of output to its end, `total_seconds` from its start; `processor_seconds` is
    the processor time of the whole run.
    """

    lines: list[Line]
    seconds: float
    total_seconds: float
    processor_seconds: float
    exit_status: int
    killed: bool

    def time_of(self, text: str) -> float:
        """When the line `text` came, in seconds since the first line; not a number if it never came."""
        return next((line.seconds for line in self.lines if line.text == text), float("nan"))


def processor_seconds_of_children() -> float:
    """The processor time, in seconds, of all programs that this script has run to their end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ended_well(finished: Finished, limit_s: float) -> Check:
    if finished.killed:
        return Check(False, f"still running after {limit_s:.0f} s: killed")
    return Check(finished.exit_status == 0, f"exit status {finished.exit_status}")


def took(seconds: float, expected_s: float, what: str) -> Check:
    """Check a duration: not shorter than `expected_s` seconds, and longer only by what a busy machine may cost."""
    # 20 ms: the first line reaches us later than the program's clock started.
    passed = expected_s - 0.02 <= seconds < expected_s + SLACK_S
    return Check(passed, f"{what} took {seconds:.2f} s (expected: {expected_s:.1f} s)")


def printed(lines: Sequence[str], expected: Sequence[str], what: str) -> Check:
    """Compare the whole output. A `*` in `expected` stands for what differs from run to run."""
    for number, (line, wanted) in enumerate(zip(lines, expected, strict=False), start=1):
        if not re.fullmatch(re.escape(wanted).replace(r"\*", ".+"), line):
            return Check(False, f"{what}: no, line {number} is {line!r} instead of {wanted!r}")
    if len(lines) != len(expected):
        return Check(False, f"{what}: no, {len(lines)} lines instead of {len(expected)}")
    return Check(True, what)


# -- slow web servers --------------------------------------------------------------------------------------------


class SlowServers:
    """Web servers on free ports of the loopback interface which take their time to answer.

    They note from when until when they worked on each request: proof of what overlapped, and independent of anything
    that a program prints about itself.
    """

    def __init__(self, delays_s: Sequence[float]) -> None:
        self.delays_s = delays_s
        self.served: list[tuple[float, float]] = []
        """For each request, in the order of arrival at any server: when it arrived, and when it was answered."""
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(delay)) for delay in delays_s]
        self.urls = [f"http://127.0.0.1:{server.server_port}/" for server in self._servers]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _handler(self, delay_s: float) -> type[BaseHTTPRequestHandler]:
        served = self.served

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                arrived = time.monotonic()
                time.sleep(delay_s)
                served.append((arrived, time.monotonic()))
                body = b"slow" * int(1000 * delay_s)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """The programs tell what happens; a second log would only be in the way."""

        return Handler


def most_at_once(intervals: Sequence[tuple[float, float]]) -> int:
    """The greatest number of `intervals` (start, end) that share an instant."""
    return max((sum(start <= at < end for start, end in intervals) for at, _ in intervals), default=0)


# -- the six programs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program of the tutorial.

    `expected` is its output, with `*` for what differs from run to run; None where the order isn't fixed.
    `run` starts the command, waits for its end and yields the checks.
    """

    title: str
    shows: str
    python_file: str
    rust_example: str
    expected: tuple[str, ...] | None
    run: Callable[[Program, list[str]], Iterator[Check | Finished]]


def run_to_end(command: Sequence[str]) -> Finished:
    with RunningProgram(command) as running:
        return running.wait(PROGRAM_LIMIT_S)


def run_greenlets(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    finished = run_to_end(command)
    yield finished
    yield ended_well(finished, PROGRAM_LIMIT_S)
    yield printed([line.text for line in finished.lines], program.expected, "the tasks took turns: 1 2 3, 1 2 3, 1 2 3")
    yield took(finished.seconds, 3.0, "three tasks of 3 s each, together,")


def run_downloads(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    with SlowServers(delays_s=(1.2, 1.0, 0.8)) as servers:
        finished = run_to_end([*command, *servers.urls])
    yield finished
    yield ended_well(finished, PROGRAM_LIMIT_S)

    requests = sorted(servers.served)
    count = len(servers.urls)
    yield Check(len(requests) == 2 * count, f"the servers answered {len(requests)} requests (expected: {2 * count})")
    first, second = most_at_once(requests[:count]), most_at_once(requests[count:])
    yield Check(first == 1, f"one after another: the servers saw {first} request at a time")
    yield Check(second == count, f"all at once: the servers saw {second} requests at a time (expected: {count})")

    text = "\n".join(line.text for line in finished.lines)
    yield took(duration_in(text, "One after another took"), sum(servers.delays_s), "one after another: the downloads")
    yield took(duration_in(text, "All at once took"), max(servers.delays_s), "all at once: the downloads")


def duration_in(text: str, before: str) -> float:
    """The number of seconds that `text` gives after `before`; not a number if it gives none."""
    match = re.search(re.escape(before) + r" ([0-9.]+) s", text)
    return float(match[1]) if match else float("nan")


def run_events(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    finished = run_to_end(command)
    yield finished
    yield ended_well(finished, PROGRAM_LIMIT_S)
    yield printed(
        [line.text for line in finished.lines], program.expected, "the waiter went on only after the event was set"
    )
    was_set = finished.time_of("Setter: setting the event!")
    woke = finished.time_of("Waiter: the event is set, going on.")
    yield took(was_set, 3.0, "the setter")
    yield Check(0 <= woke - was_set < SLACK_S, f"the waiter woke {1000 * (woke - was_set):.0f} ms after that")
    # Whoever polled the event all the time would need 3 s.
    used = finished.processor_seconds
    yield Check(used < SLACK_S, f"the whole program, its start included, used the processor for {used:.2f} s")


def run_pool(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    finished = run_to_end(command)
    yield finished
    yield ended_well(finished, PROGRAM_LIMIT_S)
    yield printed(
        [line.text for line in finished.lines],
        program.expected,
        "a task started whenever another finished; the results came in the order of the tasks",
    )
    running = most = 0
    for line in finished.lines:
        running += line.text.endswith(" started")
        running -= line.text.endswith(" finished")
        most = max(most, running)
    yield Check(most == 2, f"at most {most} tasks ran at a time (expected: 2)")
    # Tasks of 0.5 to 2.5 s. One place of the pool runs 1, 3 and 5 (0.5 + 1.5 + 2.5), the other one 2 and 4 (1 + 2).
    yield took(finished.seconds, 4.5, "7.5 s of work, two at a time,")


def run_timeout(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    finished = run_to_end(command)
    yield finished
    yield ended_well(finished, PROGRAM_LIMIT_S)
    yield printed([line.text for line in finished.lines], program.expected, "the task was interrupted, not finished")
    yield took(finished.seconds, 2.0, "the task of 5 s, allowed 2 s,")


def run_web_server(program: Program, command: list[str]) -> Iterator[Check | Finished]:
    with RunningProgram([*command, "0"]) as running:  # port 0: any free port
        address = running.wait_for_line(r"http://127\.0\.0\.1:([0-9]+)", limit_s=20)
        if address:
            port = int(address[1])
            # A client that sends half a request must not hold up the others, and is served when it sends the rest.
            with socket.create_connection(("127.0.0.1", port), timeout=5) as dawdler:
                dawdler.sendall(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                for path, wanted in (
                    ("/", "<h1>Welcome to a web server made with"),
                    ("/about", "demo server</h1>"),
                    ("/こんにちは/世界", "<h1>You asked for: /こんにちは/世界</h1>"),
                    ("/<script>", "<h1>You asked for: /&lt;script&gt;</h1>"),
                ):
                    yield check_page(port, path, wanted)
                dawdler.sendall(b"Connection: close\r\n\r\n")
                yield check_dawdler(dawdler)
            running.interrupt()
        else:
            running.interrupt()
            yield Check(False, "the program never said on which address it serves")
        finished = running.wait(STOP_LIMIT_S)
    yield finished
    yield ended_well(finished, STOP_LIMIT_S)
    last = finished.lines[-1].text if finished.lines else ""
    yield Check(last == "Server stopped", f"SIGINT (Ctrl+C) stopped the server; its last words: {last!r}")


def check_page(port: int, path: str, wanted: str) -> Check:
    """Ask for `path` and look for `wanted` in the page, which must be declared and sent as UTF-8."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", urllib.parse.quote(path), headers={"Connection": "close"})
        response = connection.getresponse()
        page = response.read().decode("utf-8")
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        return Check(False, f"GET {path} failed: {error!r}")
    finally:
        connection.close()
    content_type = response.getheader("Content-Type")
    passed = response.status == 200 and content_type == "text/html; charset=utf-8" and wanted in page
    return Check(passed, f"GET {path} -> {response.status} {page}" + ("" if passed else f" ({content_type})"))


def check_dawdler(dawdler: socket.socket) -> Check:
    """Check the answer to the request whose first half came before all the others."""
    try:
        with dawdler.makefile("rb") as stream:
            answer = stream.read()  # until the server closes the connection
    except OSError as error:
        return Check(False, f"the client that sent its request in two halves got no answer: {error!r}")
    passed = answer.startswith(b"HTTP/1.1 200 ") and b"You asked for: /slow" in answer
    if not passed:
        return Check(False, f"the client that sent its request in two halves got {answer!r}")
    return Check(True, "a client that had sent half a request before all these delayed nobody, and got its page, too")


PROGRAMS = (
    Program(
        title="Greenlets",
        shows="Three tasks of three steps, a second each: 9 s of waiting, in 3 s, since they wait together.",
        python_file="1_greenlets.py",
        rust_example="tutorial_1_greenlets",
        expected=tuple(f"Task {task}: {step}" for step in range(3) for task in (1, 2, 3)),
        run=run_greenlets,
    ),
    Program(
        title="Downloads",
        shows="Code that looks as if it blocked downloads from three slow servers, in turn and then all at once.",
        python_file="2_monkey_patching.py",
        rust_example="tutorial_2_downloads",
        expected=None,
        run=run_downloads,
    ),
    Program(
        title="Events",
        shows="A greenlet waits, without using the processor, until another one sets an event.",
        python_file="3_events.py",
        rust_example="tutorial_3_events",
        expected=(
            "Waiter: waiting for the event...",
            "Setter: will set the event in 3 seconds...",
            "Setter: setting the event!",
            "Waiter: the event is set, going on.",
        ),
        run=run_events,
    ),
    Program(
        title="Pools",
        shows="Five tasks, but never more than two at a time.",
        python_file="4_pool.py",
        rust_example="tutorial_4_pool",
        expected=(
            "Task 1 started",
            "Task 2 started",
            "Task 1 finished",
            "Task 3 started",
            "Task 2 finished",
            "Task 4 started",
            "Task 3 finished",
            "Task 5 started",
            "Task 4 finished",
            "Task 5 finished",
            "",
            "All tasks finished in * s",
            "Results: [10, 20, 30, 40, 50]",
        ),
        run=run_pool,
    ),
    Program(
        title="Timeouts",
        shows="A task that would take 5 s is interrupted after 2 s, and the program goes on.",
        python_file="5_timeout.py",
        rust_example="tutorial_5_timeout",
        expected=(
            "Long task: started",
            "Error: the task took longer than 2 seconds",
            "Doing something else instead",
        ),
        run=run_timeout,
    ),
    Program(
        title="A web server",
        shows="Each connection has a greenlet of its own, so a slow client delays nobody. Ctrl+C stops the server.",
        python_file="6_wsgi_server.py",
        rust_example="tutorial_6_http_server",
        expected=None,
        run=run_web_server,
    ),
)


# -- the demonstration -------------------------------------------------------------------------------------------


def demonstrate(program: Program, number: int, command: list[str], file: Path) -> bool:
    """Run one program and print everything about it; whether all checks held."""
    shown_file = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    print(f"\n{number}. {program.title} -- {shown_file}")
    print(f"   {program.shows}\n", flush=True)
    checks = []
    seconds = 0.0
    for outcome in program.run(program, command):
        if isinstance(outcome, Finished):
            seconds = outcome.total_seconds
        else:
            checks.append(outcome)
    print()
    for check in checks:
        print(f"    {'✓' if check.passed else '✗'} {check.reason}")
    print(f"      {seconds:.2f} s in all, with the start of the program", flush=True)
    return all(check.passed for check in checks)


def describe_gevent(python: str) -> str:
    """Which gevent `python` imports, from which distribution, on which Python."""
    source = (
        "import gevent, platform\n"
        "from importlib.metadata import packages_distributions, version\n"
        "names = sorted(set(packages_distributions().get('gevent', [])))\n"
        "distributions = ', '.join(f'{name} {version(name)}' for name in names) or gevent.__file__\n"
        "print(f'gevent {gevent.__version__} of {distributions}, on '\n"
        "      f'{platform.python_implementation()} {platform.python_version()}')\n"
    )
    result = subprocess.run(
        [python, "-c", source], check=False, capture_output=True, text=True, timeout=PROGRAM_LIMIT_S
    )
    if result.returncode:
        sys.exit(f"{python} cannot import gevent:\n{result.stderr}")
    return result.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tutorial's six programs and check what they promise.")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to run them with (default: this one)")
    parser.add_argument("--rust", type=Path, metavar="DIRECTORY", help="run the Rust ones instead, built in DIRECTORY")
    parser.add_argument("--only", type=int, choices=range(1, 7), metavar="N", help="run program N alone")
    arguments = parser.parse_args()

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # also where the locale knows no Japanese
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # So it is in a shell's background job, and the programs would inherit it: nothing could stop the web server.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if arguments.rust:
        missing = [
            program.rust_example for program in PROGRAMS if not (arguments.rust / program.rust_example).is_file()
        ]
        if missing:
            build = "cargo build --release -p greenrust --examples"
            parser.error(f"{arguments.rust} lacks {', '.join(missing)}: build them with `{build}`")

    print(
        "The tutorial's six programs in "
        + ("Rust" if arguments.rust else f"Python: {describe_gevent(arguments.python)}")
    )
    failed = []
    for number, program in enumerate(PROGRAMS, start=1):
        if arguments.only not in (None, number):
            continue
        if arguments.rust:
            file = arguments.rust.resolve() / program.rust_example
            command = [str(file)]
        else:
            file = PYTHON_PROGRAMS / program.python_file
            command = [arguments.python, str(file)]
        if not demonstrate(program, number, command, file):
            failed.append(f"{number} ({program.title})")

    print()
    if failed:
        print(f"✗ Not as promised: {', '.join(failed)}")
        return 1
    print("✓ Everything was as promised.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
