"""Patching when modules have been imported, and classes derived, already."""
import textwrap

import pytest
from implementation import run_script

pytestmark = pytest.mark.ours_only("the real gevent leaves what was taken before patching as it is")


def late(before, after):
    """Run `before`, patch everything with warnings as errors, run `after`."""
    patch = "\nimport warnings\nwarnings.simplefilter('error')\nfrom gevent import monkey\nmonkey.patch_all()\n"
    return run_script(textwrap.dedent(before) + patch + textwrap.dedent(after))


def test_functions_that_a_module_has_taken_are_exchanged():
    late("from time import sleep\nfrom socket import socket, create_connection",
         """
         import gevent.socket
         assert sleep is gevent.sleep
         assert socket is gevent.socket.socket
         assert create_connection is gevent.socket.create_connection
         """)


def test_original_of_an_exchanged_function_is_remembered():
    late("import time, threading\nsleep, lock = time.sleep, threading.Lock",
         """
         names = {"sleep": "time", "Lock": "threading"}
         originals = [monkey.get_original(module, name) for name, module in names.items()]
         assert all("gevent" not in original.__module__ for original in originals), originals
         """)


def test_contexts_that_exist_make_cooperative_sockets():
    late("import ssl\nclass Context(ssl.SSLContext): pass\ncontext = Context(ssl.PROTOCOL_TLS_CLIENT)",
         """
         import gevent.ssl
         assert context.sslsocket_class is gevent.ssl.SSLSocket
         context.options |= ssl.OP_NO_COMPRESSION     # no RecursionError
         context.minimum_version = ssl.TLSVersion.TLSv1_2
         """)


def test_thread_classes_that_exist_become_greenlets():
    late("""
         import threading, time
         class Early(threading.Thread):
             def run(self):
                 log.append("in")
                 time.sleep(0.01)
                 log.append("out")
         log = []
         """,
         """
         threads = [Early() for _ in range(3)]
         for thread in threads:
             thread.start()
         for thread in threads:
             thread.join()
             assert not thread.is_alive()
         assert log == ["in"] * 3 + ["out"] * 3
         assert len(threading.enumerate()) == 1
         """)


def test_free_locks_and_conditions_in_globals_become_cooperative():
    late("import threading\nlock, rlock, condition = threading.Lock(), threading.RLock(), threading.Condition()",
         """
         import gevent
         def hold():
             with lock, rlock, condition:
                 gevent.sleep(0.01)
         gevent.joinall([gevent.spawn(hold), gevent.spawn(hold)], raise_error=True)
         """)


@pytest.mark.parametrize("place", [
    "class A: pass\nplace = A(); place.lock = make()\ndef get(): return place.lock",
    "class A: __slots__ = ('lock',)\nplace = A(); place.lock = make()\ndef get(): return place.lock",
    "class A: pass\nplace = A(); place.__dict__; place.lock = make()\ndef get(): return place.lock",
    "place = [make()]\ndef get(): return place[0]",
    "place = {'lock': make()}\ndef get(): return place['lock']",
    "def outer():\n    lock = make()\n    return lambda: lock\nget = outer()",
    "class A:\n    def __init__(self): self.lock = make(); self.take = self.lock.acquire\nplace = A()\n"
    "def get():\n    assert place.take(); place.lock.release(); return place.lock",
])
@pytest.mark.parametrize("make", ["Lock", "RLock"])
def test_locks_become_cooperative_wherever_they_are(place, make):
    late(f"import threading\nmake = threading.{make}\n{place}",
         """
         import gevent
         assert not type(get()).__module__.startswith("_thread"), get()
         inside = []
         def hold(number):
             with get():
                 inside.append(number)
                 gevent.sleep(0.001)
                 inside.append(number)
         with gevent.Timeout(40):
             gevent.joinall([gevent.spawn(hold, number) for number in range(3)], raise_error=True)
         assert inside == [0, 0, 1, 1, 2, 2]
         """)


def test_lock_that_something_else_refers_to_stays_what_it_is():
    late("""
         import threading
         class A: pass
         place, same = A(), (threading.Lock(),)
         place.lock = same[0]
         """,
         """
         assert place.lock is same[0]
         from gevent.monkey import _locks
         assert _locks.left == ["__main__.A.lock"], _locks.left
         """)


def test_locks_that_are_held_stay_held():
    late("""
         import threading
         class A: pass
         place = A()
         place.lock, place.rlock = threading.Lock(), threading.RLock()
         place.lock.acquire()
         place.rlock.acquire()
         place.rlock.acquire()
         with_lock = threading.RLock()
         with_lock.acquire()
         """,
         """
         import gevent
         taken = []
         def take(name, lock):
             with lock:
                 taken.append(name)
         jobs = [gevent.spawn(take, name, getattr(place, name)) for name in ("lock", "rlock")]
         gevent.sleep(0)
         assert not place.lock.acquire(False) and taken == []
         place.rlock.release()
         gevent.sleep(0)
         assert taken == []
         place.lock.release()
         place.rlock.release()
         with_lock.release()
         with gevent.Timeout(40):
             gevent.joinall(jobs, raise_error=True)
         assert sorted(taken) == ["lock", "rlock"]
         """)


def test_program_may_patch_while_it_holds_a_lock_by_with():
    run_script("""
        import threading, warnings
        warnings.simplefilter("error")
        lock, rlock, condition = threading.Lock(), threading.RLock(), threading.Condition()
        with lock, rlock, condition:
            from gevent import monkey
            monkey.patch_all()
        with lock, rlock, condition:
            condition.notify()
    """)


def test_threads_that_run_when_it_is_patched_go_on():
    late("""
         import queue, threading, time
         asked, answers, known = queue.Queue(), queue.Queue(), []
         def answer():
             while True:
                 question = asked.get()
                 known.append(threading.current_thread().name)
                 if question is None:
                     break
                 time.sleep(0)
                 answers.put(question * 2)
         thread = threading.Thread(target=answer, name="early")
         thread.start()
         asked.put(1)
         assert answers.get() == 2
         """,
         """
         import gevent
         ran = []
         with gevent.Timeout(40):
             for number in range(3):
                 getting = gevent.spawn(answers.get)
                 other = gevent.spawn(ran.append, number)
                 asked.put(number)
                 assert getting.get() == number * 2
                 other.join()
             joining = gevent.spawn(thread.join)
             gevent.sleep(0)
             assert thread.is_alive()
             asked.put(None)
             joining.get()
         assert not thread.is_alive() and ran == [0, 1, 2]
         assert set(known) == {"early"}
         assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
         """)


def test_wait_for_a_thread_that_runs_when_it_is_patched_is_not_the_end_of_the_loop():
    late("""
         import threading
         begin, done = threading.Event(), threading.Event()
         def run():
             begin.wait()
             done.set()
         thread = threading.Thread(target=run)
         thread.start()
         """,
         """
         import gevent
         gevent.spawn_later(0.01, begin.set)
         assert done.wait(40)
         thread.join()
         """)


def test_server_that_runs_in_a_thread_serves_requests_that_wait():
    late("""
         import http.server
         import threading
         import time
         import urllib.request

         class Handler(http.server.BaseHTTPRequestHandler):
             def do_GET(self):
                 time.sleep(0.01)
                 self.send_response(200)
                 self.send_header("Content-Length", "4")
                 self.end_headers()
                 self.wfile.write(b"done")

             def log_message(self, *args):
                 pass

         server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
         thread = threading.Thread(target=server.serve_forever)
         thread.start()
         url = f"http://127.0.0.1:{server.server_port}/"
         assert urllib.request.urlopen(url, timeout=40).read() == b"done"
         """,
         """
         import gevent

         def get():
             with urllib.request.urlopen(url, timeout=40) as answer:
                 return answer.read()

         greenlets = [gevent.spawn(get) for _ in range(5)]
         gevent.joinall(greenlets, raise_error=True)
         assert [greenlet.value for greenlet in greenlets] == [b"done"] * 5
         server.shutdown()
         thread.join(40)
         assert not thread.is_alive()
         server.server_close()
         """)


def test_executors_and_queues_that_were_used_before_work():
    late("""
         import queue
         from concurrent.futures import ThreadPoolExecutor, wait
         executor = ThreadPoolExecutor(2)
         assert executor.submit(pow, 2, 3).result() == 8
         words, numbers = queue.Queue(1), queue.SimpleQueue()
         words.put("first")
         numbers.put(1)
         """,
         """
         import gevent
         with gevent.Timeout(40):
             putting = gevent.spawn(words.put, "second")
             gevent.sleep(0)
             assert not putting.ready()
             assert [words.get(), words.get()] == ["first", "second"]
             getting = [gevent.spawn(numbers.get) for _ in range(2)]
             gevent.spawn(numbers.put, 2)
             assert [greenlet.get() for greenlet in getting] == [1, 2]
             futures = [executor.submit(pow, 2, number) for number in range(5)]
             assert not wait(futures).not_done
             assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
             executor.shutdown()
         """)


def test_requests_and_tls_contexts_that_were_used_before_work():
    late("""
         import http.server, sys, threading
         sys.modules["socks"] = None      # PySocks, which requests imports if it is there, derives from socket.socket
         import requests, ssl, urllib3, logging
         class Handler(http.server.BaseHTTPRequestHandler):
             protocol_version = "HTTP/1.1"
             def do_GET(self):
                 if self.path == "/meet":
                     barrier.wait(30)
                 self.send_response(200)
                 self.send_header("Content-Length", "2")
                 self.end_headers()
                 self.wfile.write(b"ok")
             def log_message(self, *args):
                 pass
         barrier = threading.Barrier(3)
         session, context = requests.Session(), ssl.create_default_context()
         session.trust_env = False
         server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
         address = "http://127.0.0.1:%d" % server.server_address[1]
         serving = threading.Thread(target=server.handle_request)
         serving.start()
         # Its thread goes on to serve the connection, which the session keeps.
         assert session.get(address).text == "ok"
         serving.join()
         """,
         """
         import gevent
         context.minimum_version = ssl.TLSVersion.TLSv1_3      # no RecursionError
         ssl.create_default_context()
         with gevent.Timeout(40):
             serving = gevent.spawn(server.serve_forever)
             jobs = [gevent.spawn(session.get, address + "/meet") for _ in range(3)]
             gevent.joinall(jobs, raise_error=True)
             assert [job.value.text for job in jobs] == ["ok"] * 3
             server.shutdown()
         server.server_close()
         """)


def test_sockets_that_are_open_wait_as_greenlets():
    late("""
         import socket
         here, there = socket.socketpair()
         listener = socket.create_server(("127.0.0.1", 0))
         silent, nobody = socket.socketpair()
         silent.settimeout(0.001)
         eager, other = socket.socketpair()
         eager.setblocking(False)
         stream = there.makefile("rb")
         """,
         """
         import gevent
         with gevent.Timeout(40):
             receiving = gevent.spawn(here.recv, 10)
             gevent.sleep(0)
             there.sendall(b"word")
             assert receiving.get() == b"word"
             sending = gevent.spawn(here.sendall, b"x" * 3_000_000)
             assert len(stream.read(3_000_000)) == 3_000_000
             sending.get()
             accepting = gevent.spawn(listener.accept)
             gevent.sleep(0)
             client = socket.create_connection(listener.getsockname())
             accepted, _ = accepting.get()
             client.sendall(b"y")
             assert accepted.recv(1) == b"y"
             try:
                 silent.recv(1)
             except TimeoutError:
                 assert silent.gettimeout() == 0.001
             try:
                 eager.recv(1)
             except BlockingIOError:
                 assert eager.gettimeout() == 0 and not eager.getblocking()
             else:
                 sys.exit("something came")
             waiting = gevent.spawn(here.recv, 1)
             gevent.sleep(0)
             here.close()
             waiting.join()
             assert isinstance(waiting.exception, OSError), waiting.exception
             stream.close()
         """)


def test_logging_handler_that_is_in_use_when_it_is_patched():
    completed = late("""
        import logging, sys
        class Handler(logging.StreamHandler):
            def emit(self, record):
                if record.msg == "patch":
                    from gevent import monkey
                    monkey.patch_all()
                super().emit(record)
        logging.basicConfig(handlers=[Handler(sys.stdout)], format="%(message)s")
        logging.warning("patch")
        """,
        """
        import gevent
        with gevent.Timeout(40):
            gevent.joinall([gevent.spawn(logging.warning, "line") for _ in range(2)], raise_error=True)
        """)
    assert completed.stdout.splitlines() == ["patch", "line", "line"]


def test_module_that_patches_while_it_is_imported(tmp_path):
    (tmp_path / "patching.py").write_text(textwrap.dedent("""
        from gevent import monkey
        monkey.patch_all()
        import gevent, importlib
        def import_again():
            importlib.import_module("patching")
            return finished
        other = gevent.spawn(import_again)
        gevent.sleep(0.001)
        finished = True
    """), encoding="utf-8")
    run_script("""
        sys.path.insert(0, sys.argv[1])
        import patching
        import gevent
        with gevent.Timeout(40):
            assert patching.other.get() is True
    """, tmp_path)


def test_logging_works_from_many_greenlets():
    late("import logging, io\nstream = io.StringIO()\nlogging.basicConfig(stream=stream, format='%(message)s')",
         """
         import gevent
         gevent.joinall([gevent.spawn(logging.warning, "line %d", i) for i in range(20)], raise_error=True)
         assert len(stream.getvalue().splitlines()) == 20
         """)


CLASSES = """
    import socket
    class Base(socket.socket):
        def __init__(self, *args, **kwargs):
            # By name, as PySocks does, too.
            socket.socket.__init__(self, *args, **kwargs)
            self.log = []
        def recv(self, *args):
            self.log.append("recv")
            return super().recv(*args)
        def settimeout(self, timeout):
            self.log.append(timeout)
            socket.socket.settimeout(self, timeout)
    class Early(Base):
        pass
"""


def test_classes_derived_from_sockets_wait_as_greenlets():
    late(CLASSES + """
    opened, peer = socket.socketpair()
    opened = Early(fileno=opened.detach())
    opened.settimeout(30)
    listener = Early()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    """, """
        import gevent
        assert opened.gettimeout() == 30 and isinstance(opened, Early)
        with gevent.Timeout(40):
            reading = gevent.spawn(opened.recv, 10)
            gevent.sleep(0)
            assert not reading.ready()
            peer.sendall(b"word")
            assert reading.get() == b"word" and opened.log == [30, "recv"]
            new = Early(socket.AF_INET, socket.SOCK_STREAM)
            accepting = gevent.spawn(listener.accept)
            gevent.sleep(0)
            # The name is looked up by the hub's resolver.
            new.connect(("localhost", listener.getsockname()[1]))
            accepted, _ = accepting.get()
            assert isinstance(accepted, socket.socket)
            sending = gevent.spawn(new.sendall, b"x" * 3_000_000)
            with accepted, accepted.makefile("rb") as stream:
                assert len(stream.read(3_000_000)) == 3_000_000
                sending.get()
                new.settimeout(0.001)
                try:
                    new.recv(1)
                except TimeoutError:
                    pass
                assert new.log == [0.001, "recv"]
                new.setblocking(False)
                try:
                    new.recv(1)
                except BlockingIOError:
                    pass
            new.setblocking(True)
            assert new.recv(1) == b""
        here, there = socket.socketpair()
        socket.socket.send(here, b"y")
        assert socket.socket.recv(there, 1) == b"y"
        socket.setdefaulttimeout(7)
        assert Early().gettimeout() == 7
    """)


def test_open_sockets_are_sockets_of_the_patched_class():
    late("import socket\nhere, there = socket.socketpair()",
         "assert isinstance(here, socket.socket)\nwith here.dup() as copy: assert type(copy) is socket.socket")


def test_class_derived_from_a_queue_or_a_selector_or_popen_waits_as_greenlets():
    late("""
         import queue, selectors, socket, subprocess
         class Words(queue.PriorityQueue):
             def __init__(self):
                 queue.Queue.__init__(self, 1)
                 self.taken = []
             def _get(self):
                 self.taken.append(super()._get())
                 return self.taken[-1]
         class Selector(selectors.DefaultSelector): pass
         class Command(subprocess.Popen): pass
         before = Words()
         before.put("first")
         """,
         """
         import gevent
         with gevent.Timeout(40):
             putting = gevent.spawn(before.put, "second")
             gevent.sleep(0)
             assert not putting.ready()
             assert [before.get(), before.get()] == before.taken == ["first", "second"]
             words = Words()
             getting = gevent.spawn(words.get)
             gevent.sleep(0)
             words.put("word")
             assert getting.get() == "word" and isinstance(words, queue.Queue)
             here, there = socket.socketpair()
             with Selector() as selector:
                 selector.register(here, selectors.EVENT_READ)
                 selecting = gevent.spawn(selector.select)
                 gevent.sleep(0)
                 there.send(b"x")
                 assert len(selecting.get()) == 1
             with Command(["cat"], stdin=subprocess.PIPE) as command:
                 waiting = gevent.spawn(command.wait)
                 gevent.sleep(0)
                 command.stdin.close()
                 assert waiting.get() == 0
         """)


LOCALS = """
    import threading
    class Mixin:
        def __init__(self, **rest):
            super().__init__(**rest)
            self.made = True
    class Derived(Mixin, threading.local):
        count = 0
        @property
        def double(self):
            return self.count * 2
    class WithArguments(threading.local):
        def __init__(self, first, second=2):
            self.first, self.second = first, second
    class Holder: pass
    plain, derived, arguments, holder = threading.local(), Derived(), WithArguments(1, second=3), Holder()
    holder.plain = threading.local()
    plain.word = holder.plain.word = "main"
    derived.count = 5
    arguments.extra = True
"""


def test_thread_local_data_that_exists_is_that_of_greenlets():
    late(LOCALS, """
        import gevent
        def other():
            assert not hasattr(plain, "word") and not hasattr(holder.plain, "word")
            plain.word = holder.plain.word = "other"
            assert derived.made and derived.count == derived.double == 0, derived.__dict__
            derived.count = 7
            assert derived.double == 14 and vars(derived) == {"made": True, "count": 7}
            assert vars(arguments) == {"first": 1, "second": 3}
            arguments.first = 9
            del arguments.second
            try:
                arguments.second
            except AttributeError as error:
                assert "'WithArguments' object has no attribute 'second'" in str(error)
            else:
                raise AssertionError("still there")
            try:
                derived.double = 1
            except AttributeError:
                pass
            else:
                raise AssertionError("properties are not to be set")
            new = WithArguments(4)
            assert gevent.spawn(lambda: vars(new)).get() == {"first": 4, "second": 2}
            new.first = 5
            assert gevent.spawn(lambda: new.first).get() == 4
        for _ in range(2):
            gevent.spawn(other).get()
        assert plain.word == holder.plain.word == "main"
        assert derived.made and derived.count == 5 and derived.double == 10
        assert vars(arguments) == {"first": 1, "second": 3, "extra": True}
        assert isinstance(plain, threading.local)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert plain.word == "main" and thread.is_alive() is False
    """)


def test_thread_local_object_of_a_class_goes_when_it_is_dropped():
    late(LOCALS, """
        import gc, weakref
        from gevent.monkey import _locals
        ones = [arguments, WithArguments(1)]
        del arguments
        while ones:
            seen = weakref.ref(ones.pop())
            gc.collect()
            assert seen() is None
        assert len(_locals._values) == 1, _locals._values
    """)


def test_tls_connections_that_are_open_wait_as_greenlets(certificate):
    head = f"certificate = {certificate!r}\n"
    late(head + textwrap.dedent("""
        import socket, ssl, threading
        class Derived(ssl.SSLSocket): pass
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(**certificate)
        client, other = (ssl.create_default_context(cafile=certificate["certfile"]) for _ in range(2))
        other.sslsocket_class = Derived
        def connect(context):
            pair = socket.socketpair()
            wrapped = []
            thread = threading.Thread(target=lambda: wrapped.append(server.wrap_socket(pair[0], server_side=True)))
            thread.start()
            there = context.wrap_socket(pair[1], server_hostname="localhost")
            thread.join()
            return wrapped[0], there
        here, there = connect(client)
        derived, peer = connect(other)
        listener = server.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        there.settimeout(30)
        """), """
        import gevent
        assert there.gettimeout() == 30 and isinstance(here, ssl.SSLSocket)
        with gevent.Timeout(40):
            for one, another in [(here, there), (there, here), (derived, peer), (peer, derived)]:
                reading = gevent.spawn(one.recv, 10)
                gevent.sleep(0)
                assert not reading.ready()
                another.sendall(b"word")
                assert reading.get() == b"word"
                sending = gevent.spawn(one.sendall, b"x" * 3_000_000)
                received = 0
                while received < 3_000_000:
                    received += len(another.recv(65536))
                sending.get()
                one.settimeout(0.001)
                try:
                    one.recv(1)
                except TimeoutError as error:
                    assert "read operation timed out" in str(error)
                else:
                    raise AssertionError("something came")
                one.settimeout(None)
            # And those that it makes from now on.
            for context in (client, other):
                accepting = gevent.spawn(listener.accept)
                plain = socket.create_connection(listener.getsockname())
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                    accepted, _ = accepting.get()
                    assert type(connection) is context.sslsocket_class
                    reading = gevent.spawn(connection.recv, 10)
                    gevent.sleep(0)
                    accepted.sendall(b"late")
                    assert reading.get() == b"late" and connection.version() == "TLSv1.3"
                    unwrapping = gevent.spawn(accepted.unwrap)
                    connection.unwrap().close()
                    unwrapping.get().close()
            waiting = gevent.spawn(here.recv, 1)
            gevent.sleep(0)
            # The end in good order: one without it is an error in some versions of OpenSSL.
            ending = gevent.spawn(there.unwrap)
            assert waiting.get() == b""
            here.unwrap()
            ending.get()
        """)


def test_class_that_cannot_be_changed_is_told():
    run_script("""
        import queue, warnings
        class Early(queue.SimpleQueue):
            pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from gevent import monkey
            monkey.patch_all()
        [warning] = [w for w in caught if w.category is monkey.MonkeyPatchWarning]
        assert "Early" in str(warning.message), warning.message
    """)
