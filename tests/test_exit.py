"""The end of the process: with suspended greenlets, from greenlets, by signals."""
import signal
import subprocess
import sys

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
    # The first sleep may import modules: a KeyboardInterrupt in a weakref callback of an import is lost.
    process = subprocess.Popen(
        [sys.executable, "-c", "import gevent; gevent.sleep(0); print('ready', flush=True); gevent.sleep(1000)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in errors


@pytest.mark.ours_only("the real gevent imports its loop, its resolver and pprint when it makes a hub")
def test_first_wait_imports_nothing():
    # A signal that comes during an import may be lost: CPython ignores errors in weakref callbacks.
    script = """
        import gevent
        before = set(sys.modules)
        gevent.sleep(0.001)
        gevent.spawn(gevent.sleep).join()
        assert set(sys.modules) == before, set(sys.modules) - before
    """
    run_script(script)


@pytest.mark.ours_only("a signal that arrives just before the real gevent's loop waits is handled after the wait")
def test_no_signal_is_handled_only_after_the_wait():
    # Some dozen of them arrive between the hub's last question for signals and its system call that waits.
    script = """
        import random, signal, time, gevent
        from gevent.event import Event
        arrived = Event()
        signal.signal(signal.SIGALRM, lambda *_: arrived.set())
        for _ in range(1500):
            arrived.clear()
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 60e-6))
            begin = time.monotonic()
            assert arrived.wait(40)
            assert time.monotonic() - begin < 30
    """
    run_script(script)


def test_programs_own_wakeup_descriptor_hears_of_signals():
    script = """
        import os, signal, socket, threading, gevent, gevent.socket
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        assert signal.set_wakeup_fd(writer.fileno()) == -1
        signal.signal(signal.SIGUSR1, lambda *_: None)
        waiting = gevent.spawn(gevent.sleep, 1000)
        for delay in (0, 0.05):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with gevent.Timeout(40):
                gevent.socket.wait_read(reader.fileno())
            assert reader.recv(10) == bytes([signal.SIGUSR1])
        gevent.sleep(0.03)
        assert signal.set_wakeup_fd(-1) == writer.fileno()
        gevent.sleep(0.03)
        assert signal.set_wakeup_fd(writer.fileno()) == -1
        writer.close()
        gevent.sleep(0.03)
    """
    run_script(script)


@pytest.mark.ours_only("the real gevent looks for signals in the hub of the first thread only")
def test_wakeup_descriptor_in_the_child_of_a_thread_that_forks():
    script = """
        import os, signal, threading, time, gevent
        from gevent.event import Event
        def fork():
            time.sleep(0.1)    # the hub of the main thread has waited for a while
            child = os.fork()
            if child:
                children.append(os.waitpid(child, 0)[1])
                return
            try:
                assert signal.set_wakeup_fd(-1) == -1
                gevent.sleep(0.03)
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                os._exit(0 if arrived.wait(30) else 3)
            finally:
                os._exit(1)
        arrived = Event()
        signal.signal(signal.SIGALRM, lambda *_: arrived.set())
        children = []
        pool = gevent.get_hub().threadpool
        pool.apply(int)
        thread = threading.Thread(target=fork)
        thread.start()
        pool.apply(thread.join)
        assert children == [0]
    """
    run_script(script)


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
