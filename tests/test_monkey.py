"""monkey.patch_all: the standard library waits cooperatively. Each test patches in a process of its own."""
import pytest
from implementation import run_script

PATCH = "from gevent import monkey; monkey.patch_all()\n"


def patched(source, **options):
    import textwrap

    return run_script(PATCH + textwrap.dedent(source), **options)


@pytest.mark.parametrize(
    "call",
    [
        "__import__('time').sleep(0.01)",
        "__import__('select').select([a], [], [], 0.01)",
        "a.recv(1)",
        "__import__('threading').Event().wait(0.01)",
        "__import__('queue').Queue().get(timeout=0.01)",
        "__import__('threading').Lock().acquire() and lock.acquire(timeout=0.01)",
        "condition_wait()",
        "__import__('subprocess').run(['sleep', '0.01'])",
        "__import__('selectors').DefaultSelector().select(0.01)",
    ],
)
def test_blocking_call_lets_other_greenlets_run(call):
    patched(f"""
        import gevent, socket, threading
        a, b = socket.socketpair()
        a.settimeout(0.01)
        lock = threading.Lock()
        lock.acquire()
        def condition_wait():
            condition = threading.Condition()
            with condition:
                condition.wait(0.01)
        order = []
        def block():
            try:
                {call}
            except Exception as error:
                assert type(error).__name__ in ("timeout", "TimeoutError", "Empty"), error
            order.append("blocked")
        def other():
            order.append("other")
        job = gevent.spawn(block)
        gevent.spawn(other)
        job.get()
        assert order == ["other", "blocked"], order
    """)


def test_threads_become_greenlets_with_locals_and_names():
    patched("""
        import threading, gevent
        storage, order = threading.local(), []
        def run(number):
            storage.number = number
            gevent.sleep(0)
            order.append((storage.number, threading.current_thread().name))
        threads = [threading.Thread(target=run, args=(number,), name=f"t{number}") for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
            assert not thread.is_alive()
        assert order == [(number, f"t{number}") for number in range(5)], order
        assert threading.main_thread() is threading.current_thread()
    """)


def test_fifty_slow_requests_overlap():
    patched("""
        import socketserver, threading, urllib.request
        import gevent
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        waiting, gate = [], threading.Event()
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                waiting.append(1)
                if len(waiting) == 50:
                    gate.set()
                ok = gate.wait(10)
                self.send_response(200 if ok else 500)
                self.end_headers()
                self.wfile.write(b"body")
            def log_message(self, *arguments):
                pass
        class Server(ThreadingHTTPServer):
            request_queue_size = 100
        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        jobs = [gevent.spawn(lambda: urllib.request.urlopen(url, timeout=20).read()) for _ in range(50)]
        assert [job.get(timeout=30) for job in jobs] == [b"body"] * 50
        server.shutdown()
        server.server_close()
    """)


def test_requests_library_downloads_side_by_side():
    patched("""
        import gevent, requests
        from gevent.event import Event
        from gevent.pywsgi import WSGIServer
        waiting, gate = [], Event()
        def application(environ, start_response):
            waiting.append(1)
            if len(waiting) == 10:
                gate.set()
            assert gate.wait(10)
            start_response("200 OK", [])
            return [b"x" * 1000]
        server = WSGIServer(("127.0.0.1", 0), application, log=None)
        server.start()
        def fetch():
            return len(requests.get(f"http://127.0.0.1:{server.server_port}/", timeout=20).content)
        assert [job.get() for job in [gevent.spawn(fetch) for _ in range(10)]] == [1000] * 10
        server.stop()
    """)


def test_subprocess_communicates_while_others_run():
    patched("""
        import subprocess, sys, gevent
        def run(number):
            return subprocess.run(
                [sys.executable, "-S", "-c", f"import sys; print(sys.stdin.read() + '{number}')"],
                input="text", capture_output=True, text=True, check=True,
            ).stdout.strip()
        assert [job.get() for job in [gevent.spawn(run, number) for number in range(4)]] == [
            f"text{number}" for number in range(4)]
        assert subprocess.call(["false"]) == 1
    """)


def test_patched_and_original_can_be_told_apart():
    patched("""
        import socket, time, gevent.socket
        assert monkey.is_module_patched("socket") and monkey.is_object_patched("time", "sleep")
        assert not monkey.is_module_patched("json")
        assert monkey.get_original("time", "sleep") is not time.sleep
        assert socket.socket is gevent.socket.socket
    """)


def test_only_what_is_asked_for_is_patched():
    run_script("""
        from gevent import monkey
        import time, socket
        original = time.sleep, socket.socket
        monkey.patch_all(time=False)
        assert time.sleep is original[0] and socket.socket is not original[1]
    """)


def test_locks_and_rlocks_of_threads_are_cooperative():
    patched("""
        import threading, gevent
        for kind in (threading.Lock, threading.RLock, threading.Semaphore, threading.BoundedSemaphore):
            lock, order = kind(), []
            def run(number):
                with lock:
                    order.append(number)
                    gevent.sleep(0)
                    order.append(number)
            gevent.joinall([gevent.spawn(run, number) for number in range(3)], raise_error=True)
            assert order == [0, 0, 1, 1, 2, 2], (kind, order)
    """)


def test_thread_pool_executor_of_the_standard_library_works():
    patched("""
        import concurrent.futures, time
        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            assert list(executor.map(lambda value: time.sleep(0.001) or value, range(10))) == list(range(10))
    """)


def test_tls_between_greenlets():
    patched("""
        import os, socket, ssl, subprocess, tempfile, gevent
        assert issubclass(ssl.SSLSocket, socket.socket)
        client = ssl.create_default_context()
        assert client.verify_mode == ssl.CERT_REQUIRED
        a, b = socket.socketpair()
        # No peer answers the handshake: the other greenlet runs meanwhile, and the timeout ends it.
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        a.settimeout(0.02)
        order = []
        gevent.spawn(order.append, "other")
        try:
            client.wrap_socket(a)
        except TimeoutError:
            order.append("timeout")
        assert order == ["other", "timeout"], order
    """)


def test_main_module_is_run_patched_by_the_command_line(tmp_path):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text("import sys, time\nfrom gevent import monkey\n"
                      "print(monkey.is_object_patched('time', 'sleep'), sys.argv[1:])\n")
    completed = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", str(script), "argument"], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "True ['argument']"


def test_warning_of_a_second_patch_names_the_line_that_patches():
    run_script("""
        import warnings
        from gevent import monkey
        monkey.patch_all()
        source = "from gevent import monkey\\nmonkey.patch_all(os=False)\\n\\nmonkey.patch_all(os=False)\\n"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            exec(compile(source, "a program", "exec"), {})
        assert [(warning.filename, warning.lineno) for warning in caught] == [("a program", 2), ("a program", 4)]
    """)


def test_a_second_patch_adds_what_the_first_left_out():
    run_script("""
        import select, selectors, threading, warnings
        from gevent import monkey
        assert monkey.patch_all(Event=False, aggressive=False, dns=False) is True
        assert threading.Event.__module__ == "threading" and hasattr(select, "epoll")
        assert not monkey.is_object_patched("socket", "getaddrinfo")
        warnings.simplefilter("ignore")
        assert monkey.patch_all() is True
        assert threading.Event.__module__ != "threading"
        assert not hasattr(select, "epoll") and not hasattr(selectors, "EpollSelector")
        assert monkey.is_object_patched("socket", "getaddrinfo")
        # There is nothing left to add.
        assert monkey.patch_all() is None
        event = threading.Event()
        thread = threading.Thread(target=event.set)
        thread.start()
        assert event.wait(30)
        thread.join()
    """)
