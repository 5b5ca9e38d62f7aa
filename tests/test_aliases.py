"""Names of gevent's private modules that programs import: what they name, and that unknown ones are refused."""
import errno
import importlib
import os
import subprocess
import sys

import gevent
import pytest

PRIVATE_NAMES = {
    "gevent._compat": "PYPY WIN LINUX OSX PURE_PYTHON perf_counter get_clock_info NativeStrIO reraise string_types",
    "gevent._util": "Lazy LazyOnClass readproperty copy_globals gmctime",
    "gevent._hub_local": "get_hub_class get_hub_if_exists get_hub set_hub get_loop",
    "gevent._config": "validate_bool Loop config",
    "gevent._fileobjectcommon": "OpenDescriptor FileObjectBlock cancel_wait_ex",
    "gevent._fileobjectposix": "FileObjectPosix GreenOpenDescriptor",
    "gevent._patcher": "MAPPING",
    "gevent._socketcommon": "wait_read EWOULDBLOCK cancel_wait_ex AF_INET",
    "gevent._socket3": "socket EBADF",
    "gevent._threading": "Lock Queue EmptyTimeout get_thread_ident",
    "gevent._hub_primitives": "iwait_on_objects wait_on_objects wait_on_watcher Waiter ConcurrentObjectUseError",
    "gevent._greenlet_primitives": "get_reachable_greenlets getcurrent",
    "gevent._waiter": "Waiter",
    "gevent._semaphore": "Semaphore BoundedSemaphore",
    "gevent._imap": "IMap IMapUnordered",
    "gevent.libev.corecext": "loop get_version",
}


@pytest.mark.parametrize("module_name", PRIVATE_NAMES)
def test_private_names_can_be_imported(module_name):
    module = importlib.import_module(module_name)
    assert [name for name in PRIVATE_NAMES[module_name].split() if not hasattr(module, name)] == []


def test_private_names_are_the_public_objects():
    from gevent import hub, lock
    from gevent._hub_primitives import iwait_on_objects
    from gevent._semaphore import Semaphore
    from gevent._waiter import Waiter

    assert (Waiter, Semaphore, iwait_on_objects) == (hub.Waiter, lock.Semaphore, hub.iwait)


def test_unknown_private_names_are_refused():
    with pytest.raises(ModuleNotFoundError, match=r"gevent\._no_such_module"):
        importlib.import_module("gevent._no_such_module")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from gevent._compat import no_such_name")


def test_importing_gevent_makes_the_event_module_an_attribute():
    script = "import gevent; gevent.event.Event().set(); gevent.hub.get_hub; gevent.greenlet.joinall"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_lazy_is_computed_once_for_each_instance():
    from gevent._util import Lazy

    computed = []

    class Thing:
        @Lazy
        def value(self):
            computed.append(self)
            return len(computed)

    first, second = Thing(), Thing()
    assert (first.value, first.value, second.value) == (1, 1, 2)
    assert computed == [first, second]


def test_lazy_on_class_is_computed_once():
    from gevent._util import LazyOnClass

    computed = []

    class Thing:
        @LazyOnClass
        def value(self):
            computed.append(self)
            return 7

    assert (Thing().value, Thing().value, Thing.value) == (7, 7, 7)
    assert len(computed) == 1


def test_reraise_keeps_the_traceback():
    from gevent._compat import reraise

    try:
        raise KeyError("lost")
    except KeyError as error:
        caught = error
    with pytest.raises(KeyError) as raised:
        reraise(KeyError, caught, caught.__traceback__)
    assert raised.traceback[-1].name == "test_reraise_keeps_the_traceback"


def test_thread_queue_gives_up_after_its_timeout():
    from gevent._threading import EmptyTimeout, Queue

    queue = Queue()
    cookie = queue.allocate_cookie()
    queue.put("item")
    assert queue.get(cookie) == "item"
    with pytest.raises(EmptyTimeout):
        queue.get(cookie, timeout=0.001)


def test_reachable_greenlets_contain_those_that_live():
    from gevent._greenlet_primitives import get_reachable_greenlets

    waiting = gevent.spawn(gevent.sleep, 10)
    gevent.sleep(0)
    assert waiting in get_reachable_greenlets()
    waiting.kill()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ECONNREFUSED, 99999])
def test_win32util_gives_the_text_of_an_error_number(number):
    assert importlib.import_module("gevent.win32util").formatError(number) == os.strerror(number)
