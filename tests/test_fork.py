"""fork: the child has a working hub, and the parent's greenlets do not run there unasked."""
import textwrap

import pytest
from implementation import run_script


@pytest.mark.parametrize("fork", ["gevent.fork", "gevent.os.fork_and_watch"])
def test_child_runs_greenlets_and_the_parent_sees_its_status(fork):
    completed = run_script("""
        import os, gevent, gevent.os
        gevent.sleep(0.001)
        read_end, write_end = os.pipe()
        pid = eval(sys.argv[1])()
        if not pid:
            os.read(read_end, 1)    # lives until it is watched
            assert [job.get() for job in [gevent.spawn(lambda: gevent.sleep(0.001) or 5)]] == [5]
            with gevent.Timeout(0.001, False):
                gevent.sleep(1000)
            print("child", flush=True)
            os._exit(7)
        os.write(write_end, b"x")
        waited, status = gevent.os.waitpid(pid, 0)
        assert waited == pid and os.waitstatus_to_exitcode(status) == 7, status
        print("parent")
    """, fork)
    assert completed.stdout.splitlines() == ["child", "parent"]


def test_suspended_greenlets_exist_in_both_processes():
    completed = run_script("""
        import os, gevent
        from gevent.event import Event
        gate = Event()
        def run():
            text = "kept"
            gate.wait()
            print(os.getpid() == parent, text, flush=True)
        parent = os.getpid()
        job = gevent.spawn(run)
        gevent.sleep(0)
        pid = gevent.fork()
        if not pid:
            gate.set()
            job.join()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        gate.set()
        job.join()
    """)
    assert completed.stdout.splitlines() == ["False kept", "True kept"]


def test_os_fork_inside_a_greenlet():
    completed = run_script("""
        import os, gevent
        def run():
            pid = os.fork()
            if not pid:
                gevent.reinit()
                gevent.sleep(0.001)
                print("child", flush=True)
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert gevent.spawn(run).get() == 0
    """)
    assert completed.stdout.strip() == "child"


def test_sockets_of_the_parent_stay_usable_after_a_fork():
    run_script("""
        import os, gevent
        from gevent import socket
        a, b = socket.socketpair()
        waiter = gevent.spawn(a.recv, 10)
        gevent.sleep(0)
        pid = gevent.fork()
        if not pid:
            c, d = socket.socketpair()
            receiving = gevent.spawn(c.recv, 1)
            gevent.sleep(0)
            d.sendall(b"y")
            os._exit(0 if receiving.get(timeout=5) == b"y" else 1)
        assert os.waitpid(pid, 0)[1] == 0
        b.sendall(b"x")
        assert waiter.get(timeout=5) == b"x"
    """)


def test_many_children_one_after_the_other():
    run_script("""
        import os, gevent
        for number in range(20):
            pid = gevent.fork()
            if not pid:
                gevent.sleep(0)
                os._exit(number)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number
    """)


def test_child_may_exit_in_the_ordinary_way():
    completed = run_script("""
        import os, gevent
        jobs = [gevent.spawn(gevent.sleep, 1000) for _ in range(10)]
        gevent.sleep(0)
        read_end, write_end = os.pipe()
        pid = gevent.fork()
        if not pid:
            os.read(read_end, 1)    # lives until it is watched
            sys.exit(3)
        os.write(write_end, b"x")
        assert os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1]) == 3
        gevent.killall(jobs)
        print("parent")
    """)
    assert completed.stdout.strip() == "parent"


@pytest.mark.ours_only("logging frees the lock in the child, and its owner fails when it releases it")
def test_locks_that_greenlets_hold_stay_held_in_the_child():
    completed = run_script("""
        from gevent import monkey; monkey.patch_all()
        import logging, os, threading, gevent
        handler = logging.StreamHandler(sys.stdout)
        logging.getLogger().addHandler(handler)
        held, gate = threading.Event(), threading.Event()
        def hold():
            with handler.lock:
                held.set()
                gate.wait()
                os.write(1, b"released ")
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        pid = os.fork()
        job = gevent.spawn(logging.warning, "logged")
        gevent.sleep()
        gate.set()
        job.join()
        gevent.sleep()
        if pid:
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
    """)
    assert completed.stdout.split() == ["released", "logged"] * 2
    assert not completed.stderr


@pytest.mark.ours_only("the child waits for ever")
@pytest.mark.parametrize("importer", ["a native thread", "a greenlet"])
def test_child_can_import_what_another_thread_is_importing(tmp_path, importer):
    (tmp_path / "half.py").write_text(textwrap.dedent("""
        import __main__, os
        if os.getpid() == __main__.parent:
            os.write(__main__.begun, b"x")
            __main__.wait()
        whole = True
    """), encoding="utf-8")
    completed = run_script("""
        from gevent import monkey; monkey.patch_all()
        import multiprocessing, os, gevent, gevent.event
        importer, folder = sys.argv[1:]
        sys.path.insert(0, folder)
        parent = os.getpid()
        read_end, begun = os.pipe()
        gate_read, gate_write = os.pipe()
        gate = gevent.event.Event()
        def job():
            from half import whole
            return whole
        if importer == "a greenlet":
            wait = gate.wait
            running = gevent.spawn(job)
            gevent.sleep()
        else:
            wait = lambda: os.read(gate_read, 1)
            running = gevent.get_hub().threadpool.spawn(job)
        os.read(read_end, 1)
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(7 * job()))
        process.start()
        process.join()
        assert process.exitcode == 7, process.exitcode
        if importer != "a greenlet":
            pid = os.fork()
            if not pid:
                os._exit(job())
            assert os.waitpid(pid, 0)[1] >> 8 == 1
        gate.set()
        os.write(gate_write, b"x")
        assert running.get()
        print("imported")
    """, importer, str(tmp_path))
    assert completed.stdout.split() == ["imported"]


@pytest.mark.ours_only("the real gevent waits for ever")
def test_waiting_for_any_child_without_children_is_an_error():
    run_script("""
        import gevent.os, gevent.subprocess, os
        try:
            gevent.os.waitpid(-1, 0)
        except ChildProcessError:
            pass
        else:
            raise AssertionError("nobody to wait for")
    """)


@pytest.mark.ours_only("the real gevent's process waits for ever")
def test_status_that_somebody_asked_of_any_child_reaches_its_process_too():
    run_script("""
        import gevent.os, gevent.subprocess, os
        process = gevent.subprocess.Popen(["sh", "-c", "exit 7"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert gevent.os.waitpid(-1, os.WNOHANG) == (process.pid, 7 << 8)
        assert process.wait(timeout=20) == 7
        try:
            again = gevent.os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        else:
            raise AssertionError(again)
    """)


@pytest.mark.ours_only("the real gevent waits for ever")
@pytest.mark.parametrize("options", ["0", "os.WNOHANG"])
def test_child_can_be_waited_for_before_its_watcher_was_called(options):
    run_script(f"""
        import gevent.os, os
        pid = gevent.os.fork_and_watch()
        if not pid:
            os._exit(3)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert gevent.os.waitpid(-1, os.WNOHANG) == (pid, 3 << 8)
        with gevent.Timeout(20):
            assert gevent.os.waitpid(pid, {options}) == (pid, 3 << 8)
        gevent.sleep(0.001)
        try:
            again = gevent.os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        else:
            raise AssertionError(again)
    """)


@pytest.mark.ours_only("the real gevent tells of the same child again")
def test_each_child_is_found_once_by_who_waits_for_any():
    run_script("""
        import gevent.os, gevent.subprocess, os
        pids = {}
        for _ in range(3):
            pid = gevent.os.fork_and_watch()
            if not pid:
                os._exit(3)
            pids[pid] = None
        for _ in range(3):
            pid, status = gevent.os.waitpid(-1, 0)
            assert pid in pids and pids[pid] is None and status == 3 << 8, (pid, status, pids)
            pids[pid] = status
    """)


def test_children_of_the_parent_are_not_those_of_the_child():
    run_script("""
        import gevent.os, gevent.subprocess, os
        first = gevent.os.fork_and_watch()
        if not first:
            os._exit(0)
        second = gevent.os.fork_and_watch()
        if not second:
            try:
                gevent.os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(9)
            os._exit(1)
        assert gevent.os.waitpid(second, 0) == (second, 9 << 8)
        assert gevent.os.waitpid(first, 0) == (first, 0)
    """)
