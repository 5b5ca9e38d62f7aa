"""Runs CPython's own tests of the modules that monkey patching makes cooperative, patched.

Each test file runs in a process of its own, as `python -m gevent.monkey` runs a program. A test that fails there is
run once more alone, then unpatched: what fails unpatched as well says nothing about us. What is left must be listed in
tests/expectations.toml with a reason, and what is listed there must fail; what would hang is not run. The exit status
is 1 otherwise, and 2 when the interpreter has no tests (Debian keeps them in the package libpythonX.Y-testsuite).
"""
import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CHILD = Path(__file__).resolve().with_name("stdlib_tests_child.py")
EXPECTATIONS = TOP / "tests" / "expectations.toml"

# Many tests wait until as many threads are left as before, and so for the end of those that looked up an address.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "GEVENT_THREADPOOL_IDLE_TASK_TIMEOUT": "0.05"}

# The files, and whether they belong to the quick set, which `.ci/run` takes: those of a few seconds.
FILES = {
    "test_socket": False,
    "test_ssl": True,
    "test_select": True,
    "test_poll": True,
    "test_epoll": False,
    "test_selectors": True,
    "test_subprocess": True,
    "test_thread": True,
    "test_threading": False,
    "test_threading_local": False,
    "test_threadedtempfile": False,
    "test_threadsignals": False,
    "test_queue": True,
    "test_sched": True,
    "test_signal": False,
    "test_socketserver": True,
    "test_context": True,
    "test_contextlib": False,
    "test_httplib": True,
    "test_httpservers": True,
    "test_urllib2_localnet": True,
    "test_urllib2": False,
    "test_ftplib": True,
    "test_smtplib": True,
    "test_smtpd": False,
    "test_poplib": False,
    "test_imaplib": False,
    "test_telnetlib": True,
    "test_asyncore": False,
    "test_asynchat": False,
    "test_xmlrpc": False,
    "test_wsgiref": False,
    "test_docxmlrpc": False,
    "test_robotparser": False,
    "test_logging": False,
    "test_popen": False,
    "test_posix": False,
    "test_fork1": False,
    "test_wait3": False,
    "test_wait4": False,
    "test_pty": False,
    "test_syslog": False,
    "test_asyncio.test_selector_events": False,
    "test_asyncio.test_unix_events": False,
    "test_asyncio.test_base_events": False,
    "test_asyncio.test_events": False,
    "test_asyncio.test_streams": False,
    "test_asyncio.test_sock_lowlevel": False,
    "test_asyncio.test_sslproto": False,
    "test_asyncio.test_subprocess": False,
    "test_asyncio.test_threads": False,
    "test_asyncio.test_futures": False,
    "test_asyncio.test_locks": False,
    "test_asyncio.test_queues": False,
    "test_asyncio.test_runners": False,
    "test_asyncio.test_sendfile": False,
    "test_asyncio.test_server": False,
    "test_asyncio.test_ssl": False,
    "test_asyncio.test_taskgroups": False,
    "test_asyncio.test_tasks": False,
    "test_asyncio.test_timeouts": False,
    "test_asyncio.test_transports": False,
    "test_asyncio.test_waitfor": False,
    "test_concurrent_futures": False,
}


class Tests:
    """The runs of one test file: outcomes by test name."""

    def __init__(self, python, module, test_timeout, file_timeout, folder):
        self.python = python
        self.module = module
        self.test_timeout = test_timeout
        self.file_timeout = file_timeout
        self.folder = folder
        self.hanging = []
        self._count = 0

    def run(self, patched, only=None):
        """Return {test: (outcome, detail)}. What hangs or crashes does not end the others."""
        outcomes = {}
        end = time.monotonic() + self.file_timeout
        without = []
        while True:
            finished, running, how = self._run_once(patched, only, without, end)
            outcomes.update(finished)
            without = list(outcomes)
            if how == "done":
                return outcomes
            if running is None:
                # Not a test: the end of the process, or a module that can't be imported.
                outcomes[f"{self.module}.<{how[0]}>"] = how
                return outcomes
            outcomes[running] = how
            without.append(running)
            if only is not None and not set(only) - set(outcomes):
                return outcomes

    def _run_once(self, patched, only, without, end):
        self._count += 1
        results = self.folder / f"{self.module}.{self._count}.jsonl"
        work = self.folder / f"{self.module}.{self._count}"
        work.mkdir()
        results.touch()
        command = [self.python, "-X", "faulthandler"]
        if patched:
            command += ["-m", "gevent.monkey"]
        selection = {"only": only, "without": without + self.hanging}
        command += [str(CHILD), str(results), self.module, json.dumps(selection)]
        with open(work.with_suffix(".log"), "wb") as log:
            process = subprocess.Popen(command, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True, env=os.environ | ENVIRONMENT)
            finished, running, is_done, position, moved = {}, None, False, 0, time.monotonic()
            hangs = False
            try:
                while True:
                    has_ended = process.poll() is not None
                    with open(results, "rb") as file:
                        file.seek(position)
                        lines = file.read()
                    lines = lines[: lines.rfind(b"\n") + 1]
                    position += len(lines)
                    for line in lines.splitlines():
                        moved = time.monotonic()
                        record = json.loads(line)
                        if "begin" in record:
                            running = record["begin"]
                        elif "end" in record:
                            finished[record["end"]] = (record["outcome"], record["detail"])
                            running = None
                        else:
                            is_done = True
                    if has_ended:
                        break
                    now = time.monotonic()
                    if now > end or now - moved > self.test_timeout:
                        hangs = True
                        process.send_signal(signal.SIGABRT)
                        time.sleep(0.3)
                        break
                    time.sleep(0.05)
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        tail = work.with_suffix(".log").read_text(errors="replace")[-4000:]
        if is_done and not hangs and process.returncode == 0:
            return finished, None, "done"
        if hangs:
            return finished, running, ("hang", tail)
        if is_done:
            return finished, None, ("exit", f"exit status {process.returncode}\n{tail}")
        return finished, running, ("crash", f"exit status {process.returncode}\n{tail}")


class Expectations:
    """What is known to fail, from tests/expectations.toml."""

    def __init__(self, version):
        entries = tomllib.loads(EXPECTATIONS.read_text())["expected"] if EXPECTATIONS.exists() else []
        self._entries = []
        for entry in entries:
            unknown = set(entry) - {"test", "python", "flaky", "hangs", "reason"}
            if unknown or not entry.get("reason") or not entry.get("test"):
                raise SystemExit(f"{EXPECTATIONS}: test, reason, python, flaky or hangs: not as in {entry}")
            if version in entry.get("python", [version]):
                self._entries.append(entry)
        self._met = set()

    def find(self, test):
        """Return the entry for a test that fails, or None."""
        for index, entry in enumerate(self._entries):
            if fnmatch.fnmatchcase(test, entry["test"]):
                self._met.add(index)
                return entry
        return None

    def hanging(self):
        """Return the patterns of the tests that are not run, since they would only use up their time."""
        return [entry["test"] for entry in self._entries if entry.get("hangs")]

    def unmet(self, outcomes):
        """Return the names of entries whose tests ran and all passed."""
        names = []
        for index, entry in enumerate(self._entries):
            if index in self._met or entry.get("flaky") or entry.get("hangs"):
                continue
            ran = [test for test, (outcome, _) in outcomes.items() if outcome == "pass"
                   and fnmatch.fnmatchcase(test, entry["test"])]
            if ran:
                names.append(entry["test"])
        return names


def is_bad(outcome):
    """Say whether an outcome is neither a pass nor a skip."""
    return outcome[0] not in ("pass", "skip")


def run_file(tests, expectations, details):
    """Run one file. Returns its outcomes and the unexpected failures."""
    tests.hanging = expectations.hanging()
    outcomes = tests.run(patched=True)
    suspects = [test for test, outcome in outcomes.items() if is_bad(outcome) and not expectations.find(test)]
    unexpected = []
    flaky = []
    if suspects:
        again = tests.run(patched=True, only=suspects)
        still = [test for test in suspects if is_bad(again.get(test, outcomes[test]))]
        flaky = [test for test in suspects if test not in still]
        if still:
            unpatched = tests.run(patched=False, only=still)
            unexpected = [test for test in still if not is_bad(unpatched.get(test, ("pass", "")))]
            for test in still:
                if test not in unexpected:
                    print(f"    fails unpatched, too: {test}")
    for test in flaky:
        print(f"    passed when run again: {test}")
        outcomes[test] = ("pass", "")
    for test in unexpected:
        outcome, detail = again.get(test, outcomes[test])
        print(f"    {outcome.upper()}: {test}")
        if details:
            print("        " + "\n        ".join(detail.rstrip().splitlines()[-details:]))
    return outcomes, unexpected


def count(outcomes, *kinds):
    return sum(outcome in kinds for outcome, _ in outcomes.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="test files, such as test_socket (default: the set)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environment under test")
    parser.add_argument("--set", choices=("quick", "all"), default="all", dest="chosen")
    parser.add_argument("--test-timeout", type=float, default=60, metavar="SECONDS", help="for each test")
    parser.add_argument("--file-timeout", type=float, default=900, metavar="SECONDS", help="for each file")
    parser.add_argument("--details", type=int, default=12, metavar="LINES", help="of each failure; 0: none")
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    options = parser.parse_args()
    # The tests run in folders of their own.
    options.python = os.path.abspath(options.python)
    probe = "import sys, test.support, test.test_socket; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([options.python, "-c", probe], capture_output=True, text=True)
    if found.returncode:
        print(f"{options.python} has no tests of its own (on Debian: the package libpythonX.Y-testsuite)")
        return 2
    version = found.stdout.strip()
    names = options.names or [name for name, is_quick in FILES.items() if is_quick or options.chosen == "all"]
    expectations = Expectations(version)
    everything, unexpected = {}, []
    with tempfile.TemporaryDirectory(prefix="stdlib-tests-") as folder:
        for name in names:
            exists = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('test.{name}') is None)"
            if subprocess.run([options.python, "-c", exists]).returncode:
                print(f"{name}: not in CPython {version}")
                continue
            started = time.monotonic()
            print(f"{name}: ", end="", flush=True)
            tests = Tests(options.python, name, options.test_timeout, options.file_timeout, Path(folder))
            outcomes, failed = run_file(tests, expectations, options.details)
            everything |= outcomes
            unexpected += failed
            print(f"{name}: {count(outcomes, 'pass')} passed, {count(outcomes, 'skip')} skipped, {len(failed)} failed "
                  f"unexpectedly, {sum(map(is_bad, outcomes.values())) - len(failed)} failed as expected or unpatched, "
                  f"too; {time.monotonic() - started:.0f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    unmet = expectations.unmet(everything)
    for name in unmet:
        print(f"expected to fail, but passes: {name}")
    print(f"CPython {version}: {count(everything, 'pass')} passed, {count(everything, 'skip')} skipped, "
          f"{len(unexpected)} failed unexpectedly, {len(unmet)} passed unexpectedly")
    return 1 if unexpected or unmet else 0


if __name__ == "__main__":
    sys.exit(main())
