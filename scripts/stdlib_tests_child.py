"""Runs the tests of one of CPython's own test modules, and tells of each as it begins and ends.

Started by run_stdlib_tests.py, as `python -m gevent.monkey stdlib_tests_child.py RESULTS MODULE SELECTION` (or without
`-m gevent.monkey`). RESULTS is a file to which lines of JSON are appended; SELECTION is a JSON object with the lists
`only` (null for all) and `without` of test names.
"""
import faulthandler
import fnmatch
import json
import os
import sys
import traceback
import unittest


class Recorder(unittest.TestResult):
    """Appends the life of each test to a file, so that a crash or a hang loses nothing."""

    def __init__(self, path):
        super().__init__()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._process = os.getpid()
        self._outcome = None

    def _write(self, **record):
        # Some tests fork, and a child may come this way.
        if os.getpid() == self._process:
            os.write(self._descriptor, json.dumps(record).encode() + b"\n")

    def _note(self, outcome, detail=""):
        # What failed first counts.
        if self._outcome is None or self._outcome[0] in ("pass", "skip"):
            self._outcome = (outcome, detail)

    def startTest(self, test):
        super().startTest(test)
        self._outcome = None
        self._write(begin=name(test))

    def stopTest(self, test):
        super().stopTest(test)
        outcome, detail = self._outcome or ("pass", "")
        self._write(end=name(test), outcome=outcome, detail=detail[-4000:])
        self._outcome = None

    def _fixture(self, test, outcome, detail):
        """Tell of what is no test: setUpClass, setUpModule, or a module that can't be imported."""
        self._write(begin=name(test))
        self._write(end=name(test), outcome=outcome, detail=detail[-4000:])

    def _failed(self, test, outcome, error):
        detail = "".join(traceback.format_exception(*error))
        if hasattr(test, "_testMethodName") or hasattr(test, "test_case"):
            self._note(outcome, detail)
        else:
            self._fixture(test, outcome, detail)

    def addSuccess(self, test):
        self._note("pass")

    def addFailure(self, test, err):
        self._failed(test, "fail", err)

    def addError(self, test, err):
        self._failed(test, "error", err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            is_failure = issubclass(err[0], test.failureException)
            self._failed(test, "fail" if is_failure else "error", err)

    def addSkip(self, test, reason):
        if hasattr(test, "_testMethodName"):
            self._note("skip", reason)
        else:
            self._fixture(test, "skip", reason)

    def addExpectedFailure(self, test, err):
        self._note("pass")

    def addUnexpectedSuccess(self, test):
        self._note("fail", "unexpected success")


def name(test):
    """Return a test's name, from its file's on."""
    return test.id().removeprefix("test.")


def flatten(suite):
    """Yield the tests of a suite, in their order."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def main(results, module, selection):
    faulthandler.enable()
    selection = json.loads(selection)
    from test import support

    # What needs the internet, much memory or long times stays off; to test_socketserver, "network" is the loopback.
    resources = ["subprocess", "cpu", *(["network"] if module == "test_socketserver" else [])]
    support.use_resources = dict.fromkeys(resources) if sys.version_info >= (3, 15) else resources
    recorder = Recorder(results)
    try:
        tests = list(flatten(unittest.defaultTestLoader.loadTestsFromName("test." + module)))
    except unittest.SkipTest as skip:
        # The file skips itself as a whole.
        recorder._write(begin=module)
        recorder._write(end=module, outcome="skip", detail=str(skip))
        tests = []
    if selection["only"] is not None:
        only = set(selection["only"])
        tests = [test for test in tests if name(test) in only]
    patterns = selection["without"]
    tests = [test for test in tests if not any(fnmatch.fnmatchcase(name(test), pattern) for pattern in patterns)]
    unittest.TestSuite(tests).run(recorder)
    recorder._write(done=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
