"""`multiprocessing` and ProcessPoolExecutor in a patched program: greenlets go on while processes are waited for.

What shows it is an order of events: each waits for what only another greenlet does. A program whose thread is blocked
would hang, and the time limit fails the test.
"""
import subprocess
import sys
import textwrap

import pytest

METHODS = ["fork", "spawn", "forkserver"]
each_method = pytest.mark.parametrize("method", METHODS)
hangs_there = pytest.mark.ours_only("the real gevent hangs or fails there, as its documentation says")

HEAD = """
from gevent import monkey; monkey.patch_all()
import multiprocessing, os, sys, threading, time, gevent
context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else "fork")
"""
TAIL = """
if __name__ == "__main__":
    with gevent.Timeout(45):
        main()
    print("end of", os.path.basename(__file__))
"""


@pytest.fixture
def run(tmp_path):
    """Run a program that defines main() in a file of its own, which spawned processes import; returns its output."""

    def call(source, *arguments, head=HEAD):
        path = tmp_path / "program.py"
        path.write_text(head + textwrap.dedent(source) + TAIL, encoding="utf-8")
        completed = subprocess.run(
            [sys.executable, path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=55,
            check=False,
        )
        assert completed.returncode == 0 and not completed.stderr, completed
        lines = completed.stdout.splitlines()
        assert lines.pop() == "end of program.py"
        return lines

    return call


@hangs_there
@each_method
def test_pool_lets_greenlets_run(run, method):
    run("""
        def prepare(*events):
            global started, go
            started, go = events

        def task(number):
            started.set()
            go.wait()
            return number * number

        def main():
            started, go = context.Event(), context.Event()
            with context.Pool(2, prepare, (started, go)) as pool:
                def release():
                    started.wait()
                    go.set()
                releasing = gevent.spawn(release)
                assert pool.map(task, range(10)) == [number * number for number in range(10)]
                releasing.get()
                assert pool.apply(task, (4,)) == 16
                assert sorted(pool.imap_unordered(task, range(4))) == [0, 1, 4, 9]
                pool.close()
                pool.join()
    """, method)


@hangs_there
@each_method
def test_several_greenlets_wait_for_one_queue(run, method):
    run("""
        def produce(queue, requests):
            for _ in range(3):
                queue.put(requests.get())
            queue.put(b"x" * 1_000_000)

        def main():
            queue, requests = context.Queue(), context.SimpleQueue()
            process = context.Process(target=produce, args=(queue, requests))
            process.start()
            getting = [gevent.spawn(queue.get, timeout=40 if number else None) for number in range(3)]
            gevent.sleep(0)
            assert not any(getting_one.ready() for getting_one in getting)
            for word in ["a", "b", "c"]:
                requests.put(word)
            assert sorted(greenlet.get() for greenlet in getting) == ["a", "b", "c"]
            assert len(queue.get()) == 1_000_000
            process.join()
            assert process.exitcode == 0
    """, method)


@hangs_there
@each_method
def test_manager_serves_several_greenlets(run, method):
    run("""
        def fill(mapping, lock, number):
            with lock:
                mapping[number] = mapping.get(number - 1, 0) + 1

        def main():
            with context.Manager() as manager:
                queue, mapping, lock = manager.Queue(), manager.dict(), manager.Lock()
                getting = [gevent.spawn(queue.get) for _ in range(2)]
                gevent.sleep(0)
                for number in range(2):
                    process = context.Process(target=fill, args=(mapping, lock, number))
                    process.start()
                    process.join()
                assert dict(mapping) == {0: 1, 1: 2}
                gevent.joinall([gevent.spawn(queue.put, number) for number in range(2)], raise_error=True)
                assert sorted(greenlet.get() for greenlet in getting) == [0, 1]
    """, method)


@hangs_there
@each_method
def test_process_pool_executor_lets_greenlets_run(run, method):
    run("""
        from concurrent.futures import ProcessPoolExecutor

        def prepare(an_event):
            global go
            go = an_event

        def task(number):
            go.wait()
            return number * number

        def main():
            go = context.Event()
            with ProcessPoolExecutor(2, mp_context=context, initializer=prepare, initargs=(go,)) as executor:
                futures = [executor.submit(task, number) for number in range(5)]
                setting = gevent.spawn(go.set)
                assert not setting.ready()
                assert [future.result() for future in futures] == [0, 1, 4, 9, 16]
                assert list(executor.map(task, range(3))) == [0, 1, 4]
    """, method)


@hangs_there
@each_method
def test_connections_and_joins_let_greenlets_run(run, method):
    run("""
        def answer(connection):
            for _ in range(2):
                connection.send(len(connection.recv()))
            connection.recv()
            sys.exit(3)

        def main():
            ours, theirs = context.Pipe()
            process = context.Process(target=answer, args=(theirs,))
            process.start()
            theirs.close()
            receiving = gevent.spawn(ours.recv)
            gevent.sleep(0)
            ours.send(b"x" * 10)
            assert receiving.get() == 10
            sending = gevent.spawn(ours.send, b"x" * 3_000_000)
            assert ours.recv() == 3_000_000
            sending.get()
            joining = [gevent.spawn(process.join) for _ in range(2)]
            gevent.sleep(0)
            assert process.is_alive()
            ours.send(None)
            gevent.joinall(joining, raise_error=True)
            assert process.exitcode == 3
            assert multiprocessing.active_children() == []
    """, method)


@hangs_there
@each_method
def test_locks_are_shared_by_greenlets_and_processes(run, method):
    run("""
        def hold(lock, connection):
            with lock:
                connection.send("held")
                connection.recv()

        def main():
            for lock in [context.Lock(), context.RLock(), context.Semaphore(1)]:
                ours, theirs = context.Pipe()
                process = context.Process(target=hold, args=(lock, theirs))
                process.start()
                assert ours.recv() == "held"
                assert not lock.acquire(False)
                assert not lock.acquire(timeout=0.001)
                waiting = gevent.spawn(lock.acquire)
                gevent.sleep(0)
                ours.send("let go")
                assert waiting.get() is True
                if not isinstance(lock, type(context.RLock())):
                    lock.release()
                process.join()

            # To the system the greenlets are one thread, which would own the lock already.
            lock, inside = context.RLock(), []
            def enter(number):
                with lock, lock:
                    inside.append(number)
                    gevent.sleep(0.001)
                    inside.append(number)
            gevent.joinall([gevent.spawn(enter, number) for number in range(3)], raise_error=True)
            assert inside == [0, 0, 1, 1, 2, 2]
            try:
                lock.release()
            except AssertionError:
                pass
            else:
                raise SystemExit("released a lock that was not held")

            condition, found = context.Condition(), []
            def wait():
                with condition:
                    found.append(condition.wait(40))
            waiting = [gevent.spawn(wait) for _ in range(2)]
            gevent.sleep(0.001)
            with condition:
                condition.notify_all()
            gevent.joinall(waiting, raise_error=True)
            assert found == [True, True]
    """, method)


@hangs_there
def test_forked_process_goes_on_with_one_greenlet(run):
    lines = run("""
        from gevent.event import Event

        def main():
            log, gate = [], Event()
            def wait_on(what, *args):
                what(*args)
                log.append(os.getpid())
            lock = threading.Lock()
            lock.acquire()
            suspended = [gevent.spawn(wait_on, what) for what in (gate.wait, lock.acquire)]
            suspended.append(gevent.spawn(wait_on, time.sleep, 0.001))
            timer = gevent.Timeout.start_new(0.001)
            gevent.sleep(0)
            suspended.append(gevent.spawn(wait_on, time.sleep, 0))

            def child():
                # Whatever the parent's greenlets wait for happens, and time passes.
                gate.set()
                lock.release()
                for _ in range(10):
                    time.sleep(0.001)
                assert log == [], log
                assert gevent.spawn(lambda: 5).get() == 5
                print("child", flush=True)

            process = context.Process(target=child)
            try:
                process.start()
            finally:
                timer.close()
            process.join()
            assert process.exitcode == 0
            gate.set()
            lock.release()
            gevent.joinall(suspended, raise_error=True)
            assert log == [os.getpid()] * 4
    """)
    assert lines == ["child"]


@hangs_there
def test_fork_while_other_greenlets_hold_locks(run):
    lines = run("""
        import logging, queue

        class Handler(logging.StreamHandler):
            def emit(self, record):
                if record.msg == "hold":
                    held.set()
                    gate.wait()
                super().emit(record)

        def main():
            global held, gate
            held, gate = threading.Event(), threading.Event()
            logging.basicConfig(handlers=[Handler(sys.stdout)], format="%(message)s", level="INFO")
            words = queue.Queue()
            threads = [threading.Thread(target=logging.info, args=("hold",)), threading.Thread(target=words.get)]
            for thread in threads:
                thread.start()
            held.wait()
            def child():
                logging.info("logged by the child")
                words.put(1)
                assert words.get() == 1
                with threading.Lock():
                    pass
                assert threading.active_count() == 1, threading.enumerate()
            for _ in range(2):
                process = context.Process(target=child)
                process.start()
                process.join()
                assert process.exitcode == 0
            gate.set()
            words.put(2)
            for thread in threads:
                thread.join()
    """)
    assert lines == ["logged by the child", "logged by the child", "hold"]


@hangs_there
def test_what_was_made_before_patching_lets_greenlets_run(run):
    run("""
        def main():
            assert queue.get() == "before"
            receiving = gevent.spawn(there.recv)
            waiting = [gevent.spawn(acquire) for acquire in (lock.acquire, condition.acquire)]
            gevent.sleep(0)
            queue.put("after")
            here.send("word")
            lock.release()
            condition.release()
            assert [waiter.get() for waiter in waiting] == [True, True]
            assert receiving.get() == "word" and queue.get() == "after"
            with multiprocessing.Pool(1) as pool:
                assert pool.map(abs, [-1, 2]) == [1, 2]
    """, head="""
import multiprocessing, os
multiprocessing.set_start_method("fork")
lock, queue = multiprocessing.Lock(), multiprocessing.Queue()
condition = multiprocessing.Condition(multiprocessing.Lock())
here, there = multiprocessing.Pipe()
queue.put("before")
from gevent import monkey; monkey.patch_all()
import gevent
lock.acquire()
condition.acquire()
""")


def test_processes_are_forked_unless_the_program_says_otherwise(run):
    run("""
        def main():
            assert multiprocessing.get_start_method() == "fork"
    """)


@hangs_there
def test_program_can_choose_how_processes_are_started(run):
    run("""
        def main():
            multiprocessing.set_start_method("spawn")
            assert multiprocessing.get_start_method() == "spawn"
    """)


@hangs_there
def test_program_without_processes_does_not_import_multiprocessing(run):
    run("""
        def main():
            assert "multiprocessing" not in sys.modules
    """, head="from gevent import monkey; monkey.patch_all()\nimport os, sys, gevent\n")




def test_fork_watchers_are_called_in_the_child(run):
    lines = run("""
        called = []

        def child():
            gevent.sleep(0.001)
            gevent.sleep(0.001)
            print("called", called == [os.getpid()], flush=True)

        def main():
            watcher = gevent.get_hub().loop.fork(ref=False)
            watcher.start(lambda: called.append(os.getpid()))
            process = context.Process(target=child)
            process.start()
            process.join()
            print("called in the parent", bool(called))
    """)
    assert lines == ["called True", "called in the parent False"]
