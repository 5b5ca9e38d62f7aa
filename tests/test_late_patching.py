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


def test_lock_that_is_held_is_left_alone():
    late("import threading\nlock = threading.Lock()\nlock.acquire()",
         "assert lock.locked() and lock is not None\nlock.release()\nassert not lock.locked()")


def test_logging_works_from_many_greenlets():
    late("import logging, io\nstream = io.StringIO()\nlogging.basicConfig(stream=stream, format='%(message)s')",
         """
         import gevent
         gevent.joinall([gevent.spawn(logging.warning, "line %d", i) for i in range(20)], raise_error=True)
         assert len(stream.getvalue().splitlines()) == 20
         """)


def test_class_derived_from_a_replaced_one_is_told():
    run_script("""
        import socket, warnings
        class Early(socket.socket):
            pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from gevent import monkey
            monkey.patch_all()
        [warning] = [w for w in caught if w.category is monkey.MonkeyPatchWarning]
        assert "Early" in str(warning.message), warning.message
    """)
