"""Which gevent is under test, and what the tests need to know of the difference.

The same tests run on the real gevent and on greenrust. Only this module asks which of them it is.
"""
import importlib.util
import os
import resource
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

__all__ = ["IS_GREENRUST", "NAME", "lowlevel", "room_for_pairs", "run_script"]

SCRIPT_HEAD = f"""\
import sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from implementation import lowlevel, room_for_pairs, IS_GREENRUST
"""


def room_for_pairs(count):
    """Let this process have so many pairs of descriptors and 200 more; return how many pairs it may have at most."""
    needed = 2 * count + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        count, needed = (hard - 200) // 2, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return count


def run_script(source, *arguments, env=None, timeout=50, check=True, flags=()):
    """Run Python `source` in a process of its own and return its subprocess.CompletedProcess.

    `source` is dedented and sees `lowlevel`, `room_for_pairs` and `IS_GREENRUST`. `timeout` is in seconds. With `check`
    a nonzero exit status fails the test and shows both streams; `env` is added to the environment; `flags` go to the
    interpreter.
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
