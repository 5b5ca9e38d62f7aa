"""`python -m gevent.monkey --check`: what a script did before it patched."""
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.ours_only("the real gevent has no such check")


def check(tmp_path, source, **modules):
    """Run the check on a script, with modules beside it; returns its exit status and its output."""
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source), encoding="utf-8")
    completed = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", "--check", script, "argument"], capture_output=True, text=True,
        timeout=50, check=False, cwd=tmp_path,
    )
    return completed.returncode, completed.stdout + completed.stderr


def test_script_that_patches_first_has_nothing_to_repair(tmp_path):
    status, text = check(tmp_path, """
        import sys
        from gevent import monkey; monkey.patch_all()
        sys.exit("the check goes on")
    """)
    assert status == 0, text
    assert "script.py:3" in text
    assert "imported before: nothing that matters" in text
    assert "not repaired: nothing" in text


def test_what_was_imported_and_repaired_is_told(tmp_path):
    status, text = check(tmp_path, """
        import sys, threading
        import early
        assert sys.argv[1:] == ["argument"]
        ready, go = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: (ready.set(), go.wait()), name="early thread", daemon=True)
        thread.start()
        ready.wait()
        from gevent.monkey import patch_all
        patch_all()
    """, early="""
        import socket, threading
        from time import sleep
        class Derived(socket.socket):
            pass
        lock = threading.Lock()
        here, there = socket.socketpair()
    """)
    assert status == 0, text
    for words in ["imported before: early", "script.py:3: import early", "early.sleep", "locks, conditions, queues",
                  "early thread (daemon)", "2 sockets that were open", "early.Derived", "not repaired: nothing"]:
        assert words in text, text


def test_what_was_not_repaired_is_told_with_what_to_do(tmp_path):
    status, text = check(tmp_path, """
        import early
        from gevent import monkey
        monkey.patch_all()
    """, early="""
        import queue, threading, time
        class Derived(queue.SimpleQueue):
            pass
        class Holder:
            wait = staticmethod(time.sleep)
        lock = threading.Lock()
        also = (lock,)
        def pause(seconds, sleep=time.sleep):
            sleep(seconds)
    """)
    assert status == 1, text
    for words in ["early.Derived", "early.lock",
                  "time.sleep in the defaults of early.pause", "time.sleep in the class early.Holder",
                  "call patch_all() before"]:
        assert words in text, text


def test_script_that_never_patches_is_told_so(tmp_path):
    status, text = check(tmp_path, "import time")
    assert status == 1
    assert "never calls patch_all()" in text


def test_script_that_is_missing_is_told_so(tmp_path):
    completed = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", "--check", tmp_path / "missing.py"], capture_output=True, text=True,
        timeout=50, check=False,
    )
    assert completed.returncode == 1
    assert "missing.py' is not a file" in completed.stderr
