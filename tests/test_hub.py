"""The hub: one a thread, who waits for what, Waiter, joining and destroying."""
import pickle
import threading

import gevent
import gevent.socket
import pytest
from gevent.event import Event
from gevent.exceptions import BlockingSwitchOutError, LoopExit
from gevent.hub import Waiter, get_hub
from implementation import run_script


def test_hub_is_one_and_the_same_in_a_thread():
    assert get_hub() is get_hub() is gevent.spawn(get_hub).get()
    assert get_hub().thread_ident == threading.get_ident()


def test_each_thread_has_its_own_hub():
    hubs = []

    def run():
        hubs.append(get_hub())
        get_hub().destroy()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert hubs[0] is not get_hub()


def test_a_hub_has_the_loop_of_its_own_thread_whoever_asks():
    hubs = []
    asked = threading.Event()

    def run():
        hubs.append(get_hub())
        asked.wait(5)
        get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    while not hubs:
        gevent.sleep(0.001)
    other = hubs[0].loop
    assert other is not get_hub().loop and not other.default and get_hub().loop.default
    asked.set()
    thread.join()


def test_loop_exit_is_raised_when_nothing_can_wake_the_waiter():
    run_script("""
        import gevent, pytest
        from gevent.event import Event
        from gevent.exceptions import LoopExit
        with pytest.raises(LoopExit) as caught:
            Event().wait()
        assert caught.value.hub is gevent.get_hub()
        # The hub can be used again.
        assert gevent.spawn(lambda: gevent.sleep(0.001) or 5).get() == 5
        with pytest.raises(LoopExit):
            gevent.spawn(Event().wait).join()
    """)


@pytest.mark.ours_only("the real message does not name the waiting greenlets")
def test_loop_exit_lists_who_waits_for_what():
    completed = run_script("""
        import gevent
        from gevent.event import Event
        from gevent.lock import Semaphore
        from gevent.queue import Queue

        blocked = [gevent.spawn(Event().wait), gevent.spawn(Queue().get), gevent.spawn(Semaphore(0).acquire)]
        for name, g in zip(("for-event", "for-queue", "for-semaphore"), blocked):
            g.name = name
        try:
            gevent.joinall(blocked)
        except gevent.hub.LoopExit as exit:
            print(exit)
    """)
    lines = completed.stdout.splitlines()
    for name, kind in (("for-event", "Event"), ("for-queue", "Queue"), ("for-semaphore", "Semaphore")):
        assert any(name in line and kind in line for line in lines), (name, completed.stdout)


def test_hub_is_true_once_something_has_waited():
    run_script("""
        import gevent
        hub = gevent.get_hub()
        assert not hub
        gevent.spawn(int).join()
        assert hub
    """)


def test_repr_of_hub_and_loop_names_the_pollers_descriptor():
    hub = gevent.get_hub()
    for text in (repr(hub), repr(hub.loop)):
        assert f" fileno={hub.loop.fileno()}" in text


def test_blocking_call_in_the_hub_is_refused(errors):
    called = []

    def callback():
        called.append(1)
        gevent.sleep(0.001)

    get_hub().loop.run_callback(callback)
    gevent.sleep(0.005)
    assert called == [1]
    assert BlockingSwitchOutError.__name__ in errors.getvalue()


def test_hub_join_runs_until_nothing_is_left():
    order = []
    gevent.spawn_later(0.001, order.append, 1)
    assert get_hub().join() is True
    assert order == [1]


def test_timers_without_reference_do_not_keep_the_hub_running():
    sleeper = gevent.spawn(gevent.sleep, 1000, ref=False)
    assert get_hub().join(timeout=5) is True
    sleeper.kill()


def test_hub_can_be_destroyed_and_made_anew():
    run_script("""
        import gevent
        hub = gevent.get_hub()
        gevent.spawn(gevent.sleep, 0).join()
        hub.destroy(destroy_loop=True)
        repr(hub)
        assert gevent.get_hub() is not hub
        assert gevent.spawn(lambda: 5).get() == 5
    """)


def test_destroyed_hub_has_no_loop():
    run_script("""
        import gevent
        hub = gevent.get_hub()
        loop = hub.loop
        hub.destroy(destroy_loop=True)
        assert hub.loop is None
        assert "destroyed" in repr(hub) and "destroyed" in repr(loop)
        assert gevent.get_hub().loop is not loop
    """)


def test_loop_that_is_not_destroyed_goes_to_the_next_hub():
    run_script("""
        import gevent
        hub = gevent.get_hub()
        loop = hub.loop
        fired = []
        timer = loop.timer(0.001)
        timer.start(fired.append, 1)
        hub.destroy()  # the main thread's loop is kept unless it is asked for
        assert hub.loop is None
        other = gevent.get_hub()
        assert other is not hub and other.loop is loop
        other.join()
        assert fired == [1]
        other.destroy(destroy_loop=True)
        assert other.loop is None and gevent.get_hub().loop is not loop
        assert gevent.spawn(lambda: 5).get() == 5
    """)


def test_loop_of_another_thread_is_destroyed_with_its_hub():
    run_script("""
        import threading
        import gevent

        def work():
            hub = gevent.get_hub()
            loop = hub.loop
            hub.destroy()
            assert hub.loop is None
            assert "destroyed" in repr(loop)
            done.append(gevent.get_hub().loop is not loop)
            gevent.get_hub().destroy(destroy_loop=False)

        done = []
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert done == [True]
    """)


def test_waiter_hands_over_one_value():
    waiter = Waiter()
    assert not waiter.ready()
    get_hub().loop.run_callback(waiter.switch, "value")
    assert waiter.get() == "value"


def test_waiter_keeps_a_value_that_came_early():
    waiter = Waiter()
    waiter.switch("early")
    assert waiter.ready() and waiter.successful()
    assert waiter.get() == "early"
    waiter.clear()
    assert not waiter.ready()


def test_waiter_throws():
    waiter = Waiter()
    get_hub().loop.run_callback(waiter.throw, KeyError("thrown"))
    with pytest.raises(KeyError, match="thrown"):
        waiter.get()


def test_wait_on_a_watcher_returns_when_it_fires():
    with get_hub().loop.timer(0.001) as timer:
        get_hub().wait(timer)


def test_cancel_wait_throws_in_the_waiter():
    a, b = gevent.socket.socketpair()
    with a, b:
        watcher = get_hub().loop.io(a.fileno(), 1)
        waiter = gevent.spawn(get_hub().wait, watcher)
        gevent.sleep(0)
        get_hub().cancel_wait(watcher, OSError(9, "cancelled"))
        with pytest.raises(OSError, match="cancelled"):
            waiter.get(timeout=1)
        watcher.close()


def test_unhandled_error_goes_to_handle_error(monkeypatch):
    handled = []

    def handle_error(context, kind, value, traceback):
        handled.append((context, kind))

    monkeypatch.setattr(get_hub(), "handle_error", handle_error, raising=False)
    g = gevent.spawn(lambda: 1 / 0)
    g.join()
    assert handled == [(g, ZeroDivisionError)]


def test_greenlets_continue_in_the_hub_while_main_waits():
    gate = Event()
    order = []
    gevent.spawn(lambda: (order.append("a"), gevent.sleep(0), order.append("b"), gate.set()))
    gate.wait()
    assert order == ["a", "b"]


def test_loop_exit_is_an_exception():
    assert issubclass(LoopExit, Exception)


# -- switch_out ---------------------------------------------------------------------------------------------


class Announcing(gevent.Greenlet):
    """Notes each time that it gives way to the hub."""

    def __init__(self, *args):
        super().__init__(*args)
        self.notes = []

    def switch_out(self):
        assert gevent.getcurrent() is self
        self.notes.append("out")


def test_switch_out_of_a_class_is_called_before_each_wait():
    def waits():
        notes = gevent.getcurrent().notes
        notes.append("begun")
        gevent.sleep(0)
        notes.append("slept")
        event.wait(0.001)
        notes.append("waited")
        gevent.spawn(int).join()
        notes.append("joined")
        hub.threadpool.apply(int)
        notes.append("called")

    hub, event = get_hub(), Event()
    greenlet = Announcing(waits)
    greenlet.start()
    greenlet.join()
    assert greenlet.notes == ["begun", "out", "slept", "out", "waited", "out", "joined", "out", "called"]


def test_switch_out_is_not_called_without_a_wait():
    event = Event()
    event.set()
    greenlet = Announcing(event.wait)
    greenlet.start()
    greenlet.join()
    assert greenlet.notes == []


def test_switch_out_can_be_set_on_any_greenlet():
    main, notes = gevent.getcurrent(), []
    assert not hasattr(main, "switch_out")
    main.switch_out = lambda: notes.append("out")
    try:
        gevent.sleep(0)
        gevent.sleep(0)
    finally:
        del main.switch_out
    gevent.sleep(0)
    assert notes == ["out", "out"] and not hasattr(main, "switch_out")


def test_error_of_switch_out_is_raised_where_the_greenlet_would_wait(errors):
    class Refusing(gevent.Greenlet):
        def switch_out(self):
            raise ValueError("expected")

    event = Event()
    greenlet = Refusing(event.wait)
    greenlet.start()
    greenlet.join()
    assert isinstance(greenlet.exception, ValueError)
    # Nothing is left of the wait that did not happen.
    event.set()
    gevent.sleep(0)
    assert "ValueError: expected" in errors.getvalue()


@pytest.mark.ours_only("gevent calls the hook again and again, until the recursion is too deep")
def test_wait_in_switch_out_is_refused():
    main = gevent.getcurrent()
    rest = [gevent.sleep]

    def hook():
        if rest:
            rest.pop()(0)

    main.switch_out = hook
    try:
        with pytest.raises(BlockingSwitchOutError, match="switch_out"):
            Event().wait(1000)
    finally:
        del main.switch_out
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        Event().wait()


def test_functions_can_be_pickled_by_name():
    # Such as for executor.submit(time.sleep, 1) with processes, patched.
    for function in (gevent.sleep, gevent.spawn, gevent.kill, gevent.wait, gevent.getcurrent):
        assert pickle.loads(pickle.dumps(function)) in (function, gevent.Greenlet.spawn)


@pytest.mark.parametrize(("imported", "reached"), [
    ("pool", "lock monkey queue"),
    ("lock", "monkey"),
    ("threadpool", "lock monkey queue util"),
    ("fileobject", "lock monkey"),
    ("subprocess", "monkey"),
    ("backdoor", "lock monkey queue"),
])
def test_modules_that_gevent_imports_itself_are_reached_through_the_package(imported, reached):
    run_script("""
        import importlib, sys, types
        import gevent
        importlib.import_module("gevent." + sys.argv[1])
        for name in sys.argv[2].split():
            assert isinstance(getattr(gevent, name), types.ModuleType), name
        assert not hasattr(gevent, "nonexistent")
    """, imported, reached)


@pytest.mark.ours_only("libev aborts the process")
def test_hub_without_descriptors_is_refused_and_made_later():
    completed = run_script("""
        import errno, os, resource
        import gevent
        taken = []
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for wait in (gevent.get_hub, lambda: gevent.sleep(0), lambda: gevent.spawn(int).join()):
            try:
                wait()
            except OSError as error:
                print(error.errno == errno.EMFILE)
        for descriptor in taken:
            os.close(descriptor)
        gevent.sleep(0)
        print(gevent.spawn(int).get())
    """)
    assert completed.stdout.split() == ["True"] * 3 + ["0"]
