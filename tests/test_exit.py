"""The end of the process: with suspended greenlets, from greenlets, by signals."""
import signal
import subprocess
import sys
import time

import pytest
from implementation import run_script


@pytest.mark.parametrize("kind", ["spawn", "raw", "cycle", "thread"])
def test_process_ends_with_suspended_greenlets(kind):
    completed = run_script("""
        import threading, gevent
        kind = sys.argv[1]
        class Thing:
            def __del__(self):
                pass
        def run():
            thing = Thing()
            if kind == "raw":
                lowlevel.getcurrent().parent.switch()
            else:
                gevent.sleep(1000)
        keep = []
        def main():
            for _ in range(50):
                if kind == "raw":
                    keep.append(lowlevel.greenlet(run))
                    keep[-1].switch()
                else:
                    keep.append(gevent.spawn(run))
            gevent.sleep(0)
        if kind == "thread":
            thread = threading.Thread(target=main)
            thread.start()
            thread.join()
        else:
            main()
        if kind == "cycle":
            keep.append(keep)
        print("end")
    """, kind)
    assert completed.stdout.strip() == "end"
    assert completed.stderr == ""


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_greenlet_ends_the_process_with_its_status(code):
    completed = run_script("""
        import gevent
        def run():
            sys.exit(int(sys.argv[1]))
        gevent.spawn(run)
        gevent.sleep(1000)
    """, code, check=False)
    assert completed.returncode == code


def test_keyboard_interrupt_while_everyone_sleeps_reaches_main():
    script = """
        import os, signal, threading, gevent
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            gevent.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted")
        assert gevent.spawn(lambda: 5).get() == 5
    """
    assert run_script(script).stdout.strip() == "interrupted"


def test_signal_ends_a_sleeping_process():
    process = subprocess.Popen(
        [sys.executable, "-c", "import gevent; print('ready', flush=True); gevent.sleep(1000)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        # It is about to sleep: twice in a row, since it may wait for something else before.
        asleep = 0
        while asleep < 2:
            time.sleep(0.01)
            with open(f"/proc/{process.pid}/stat") as stat:
                asleep = asleep + 1 if stat.read().rpartition(")")[2].split()[0] == "S" else 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors


def test_atexit_functions_may_use_gevent():
    completed = run_script("""
        import atexit, gevent
        atexit.register(lambda: print(gevent.spawn(lambda: gevent.sleep(0.001) or "at exit").get()))
        gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0)
    """)
    assert completed.stdout.strip() == "at exit"


def test_unhandled_exception_in_main_ends_with_status_one():
    completed = run_script("""
        import gevent
        gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0)
        raise ValueError("in main")
    """, check=False)
    assert completed.returncode == 1
    assert "ValueError: in main" in completed.stderr


def test_greenlet_that_refuses_to_die_does_not_hang_the_exit():
    completed = run_script("""
        import gevent
        def run():
            while True:
                try:
                    lowlevel.getcurrent().parent.switch()
                except BaseException:
                    pass
        keep = lowlevel.greenlet(run)
        keep.switch()
        print("end")
    """, timeout=20)
    assert completed.stdout.strip() == "end"
