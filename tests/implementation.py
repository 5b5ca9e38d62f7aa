"""Which gevent is under test, and what the tests need to know of the difference.

The same tests run on the real gevent and on greenrust. Only this module asks which of them it is.
"""
import importlib.util
import os
import subprocess
import sys
import textwrap

# greenrust brings the greenlet API along; the real gevent takes it from PyPI's greenlet.
IS_GREENRUST = importlib.util.find_spec("gevent.lowlevel") is not None
NAME = "greenrust" if IS_GREENRUST else "gevent"

if IS_GREENRUST:
    from gevent import lowlevel
else:
    import greenlet as lowlevel

__all__ = ["IS_GREENRUST", "NAME", "lowlevel", "run_script"]

SCRIPT_HEAD = f"""\
import sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from implementation import lowlevel, IS_GREENRUST
"""


def run_script(source, *arguments, env=None, timeout=50, check=True, flags=()):
    """Run Python `source` in a process of its own and return its subprocess.CompletedProcess.

    `source` is dedented and sees `lowlevel` and `IS_GREENRUST`. `timeout` is in seconds. With `check` a nonzero exit
    status fails the test and shows both streams; `env` is added to the environment; `flags` go to the interpreter.
    """
    environment = dict(os.environ, PYTHONIOENCODING="utf-8", **(env or {}))
    completed = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT_HEAD + textwrap.dedent(source), *map(str, arguments)],
        env=environment, timeout=timeout, capture_output=True, text=True, encoding="utf-8", errors="replace",
    )
    if check and completed.returncode != 0:
        raise AssertionError(
            f"exit status {completed.returncode}\n--- stdout\n{completed.stdout}\n--- stderr\n{completed.stderr}"
        )
    return completed
