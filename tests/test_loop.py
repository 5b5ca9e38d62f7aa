"""The loop interface: watchers and callbacks."""
import gc
import os
import signal
import threading

import gevent
import gevent.core
import gevent.event
import gevent.queue
import gevent.socket
import pytest
from gevent.hub import get_hub
from implementation import run_script


@pytest.fixture
def loop():
    return get_hub().loop


def test_callbacks_run_in_order_before_the_next_greenlet(loop):
    order = []
    for number in range(5):
        loop.run_callback(order.append, number)
    gevent.sleep(0)
    assert order == list(range(5))


def test_stopped_callback_does_not_run(loop):
    order = []
    callback = loop.run_callback(order.append, 1)
    assert callback.pending
    callback.stop()
    gevent.sleep(0)
    assert order == [] and not callback.pending


def test_callback_from_another_thread_wakes_the_loop(loop):
    done = gevent.event.Event()
    thread = threading.Thread(target=lambda: loop.run_callback_threadsafe(done.set))
    with gevent.Timeout(5):
        gevent.sleep(0.001)
        thread.start()
        assert done.wait(5)
    thread.join()


def test_timer_fires_once_and_repeats_when_asked(loop):
    order = []
    with loop.timer(0.001) as once, loop.timer(0.001, 0.001) as repeated:
        once.start(order.append, "once")
        repeated.start(order.append, "repeated")
        while order.count("repeated") < 3:
            gevent.sleep(0.001)
        assert not once.active and repeated.active
        repeated.stop()
        assert not repeated.active
    assert order.count("once") == 1


def test_negative_repeat_is_refused(loop):
    with pytest.raises(ValueError):
        loop.timer(1, -1)


def test_io_watcher_fires_when_readable(loop):
    a, b = gevent.socket.socketpair()
    events = []
    with a, b, loop.io(a.fileno(), 1) as watcher:
        watcher.start(events.append, "readable")
        gevent.sleep(0.001)
        assert events == []
        b.sendall(b"x")
        while not events:
            gevent.sleep(0.001)
        assert set(events) == {"readable"}
        watcher.stop()


def test_io_watcher_is_level_triggered(loop):
    a, b = gevent.socket.socketpair()
    events = []
    with a, b, loop.io(a.fileno(), 1) as watcher:
        b.sendall(b"x")
        watcher.start(events.append, 1)
        while len(events) < 3:
            gevent.sleep(0.001)
        watcher.stop()


def test_two_watchers_of_one_descriptor(loop):
    a, b = gevent.socket.socketpair()
    events = []
    with a, b, loop.io(a.fileno(), 1) as reader, loop.io(a.fileno(), 2) as writer:
        reader.start(events.append, "read")
        writer.start(lambda: (events.append("write"), writer.stop()))
        while not events:
            gevent.sleep(0.001)
        assert events == ["write"]
        b.sendall(b"x")
        while "read" not in events:
            gevent.sleep(0.001)
        reader.stop()


def test_async_watcher_fires_when_sent_from_a_thread(loop):
    events = gevent.event.Event()
    with loop.async_() as watcher:
        watcher.start(events.set)
        thread = threading.Thread(target=watcher.send)
        thread.start()
        assert events.wait(5)
        thread.join()
        watcher.stop()


def test_prepare_and_check_run_each_round(loop):
    order = []
    with loop.prepare() as prepare, loop.check() as check:
        prepare.start(order.append, "prepare")
        check.start(order.append, "check")
        gevent.sleep(0.002)
        gevent.sleep(0.002)
        prepare.stop()
        check.stop()
    first = order.index("prepare")
    assert order[first : first + 2] == ["prepare", "check"]


def test_idle_watcher_fires(loop):
    done = gevent.event.Event()
    with loop.idle() as idle:
        idle.start(done.set)
        assert done.wait(5)
        idle.stop()


def test_signal_watcher_and_signal_handler(loop):
    order = gevent.queue.Queue()
    handler = gevent.signal_handler(signal.SIGUSR1, order.put, "handled")
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert order.get(timeout=5) == "handled"
    finally:
        handler.cancel()


def test_child_watcher_tells_the_status(loop):
    read_end, write_end = os.pipe()
    pid = gevent.fork()
    if not pid:
        os.read(read_end, 1)    # lives until it is watched
        os._exit(3)
    done = gevent.event.Event()
    with loop.child(pid) as child:
        child.start(done.set)
        os.write(write_end, b"x")
        os.close(read_end)
        os.close(write_end)
        assert done.wait(5)
        assert child.rpid == pid
        assert os.waitstatus_to_exitcode(child.rstatus) == 3
        child.stop()


def test_now_advances(loop):
    before = loop.now()
    gevent.sleep(0.002)
    loop.update_now()
    assert loop.now() > before


def test_watcher_without_reference_lets_the_loop_end(loop):
    timer = loop.timer(1000, ref=False)
    timer.start(int)
    assert get_hub().join(timeout=5) is True
    timer.stop()
    timer.close()


def test_error_in_a_callback_is_printed_and_the_others_run(loop, errors):
    order = []
    loop.run_callback(lambda: 1 / 0)
    loop.run_callback(order.append, 1)
    gevent.sleep(0)
    gevent.sleep(0)
    assert order == [1]
    assert "ZeroDivisionError" in errors.getvalue()


def test_private_loop_runs_until_its_own_watchers_are_done():
    order = []
    private = gevent.config.loop(default=False)
    private.run()  # nothing to wait for
    with private.timer(0.001) as timer, get_hub().loop.timer(1000) as other:
        other.start(int)
        timer.start(order.append, "timer")
        private.run_callback(order.append, "callback")
        private.run()
    assert order == ["callback", "timer"]
    private.destroy()
    with pytest.raises(ValueError, match="destroyed"):
        private.run_callback(int)


def test_run_with_nowait_does_not_wait(loop):
    with loop.timer(1000) as timer, gevent.Timeout(5):
        timer.start(int)
        loop.run(nowait=True)


def test_two_watchers_of_one_child_are_both_told(loop):
    pid = gevent.fork()
    if not pid:
        os._exit(5)
    with loop.child(pid) as one, loop.child(pid) as two:
        waiters = [gevent.spawn(get_hub().wait, watcher) for watcher in (one, two)]
        gevent.joinall(waiters, timeout=5, raise_error=True)
        assert [os.waitstatus_to_exitcode(watcher.rstatus) for watcher in (one, two)] == [5, 5]


def test_stat_watcher_tells_of_a_change_and_of_the_end(tmp_path):
    # In a process of its own, as the real gevent keeps a descriptor for it.
    run_script(f"""
        import gevent, pathlib
        path = pathlib.Path({str(tmp_path / "watched")!r})
        path.write_bytes(b"")
        hub = gevent.get_hub()
        with hub.loop.stat(str(path), interval=0.11) as stat:
            gevent.spawn_later(0.001, path.write_bytes, b"content")
            hub.wait(stat)
            assert stat.prev.st_size == 0 and stat.attr.st_size == 7
            gevent.spawn_later(0.001, path.unlink)
            hub.wait(stat)
            assert stat.attr is None and stat.prev.st_size == 7
    """)


def test_fork_watcher_is_called_in_the_child_only(loop):
    read, write = os.pipe()
    with loop.fork(ref=False) as watcher:
        watcher.start(lambda: os.write(write, str(os.getpid()).encode()))
        pid = gevent.fork()
        if not pid:
            try:
                gevent.sleep(0.001)
                gevent.sleep(0.001)
            finally:
                os._exit(0)
        gevent.os.waitpid(pid, 0)
        gevent.sleep(0.001)
    os.close(write)
    assert os.read(read, 100) == str(pid).encode()
    os.close(read)


def test_closing_fd_ends_the_waits_for_it(loop):
    a, b = gevent.socket.socketpair()
    with a, b, loop.io(a.fileno(), 1) as watcher:
        waiter = gevent.spawn(get_hub().wait, watcher)
        gevent.sleep(0)
        assert loop.closing_fd(a.fileno())
        assert waiter.join(timeout=5) is None and waiter.successful()


def test_started_watcher_lives_without_a_reference(loop):
    order = []
    loop.timer(0.001).start(order.append, 1)
    gc.collect()
    gevent.sleep(0.005)
    assert order == [1]


@pytest.mark.parametrize("how", [{}, {"once": True}, {"nowait": True}], ids=["run", "once", "nowait"])
def test_run_returns_when_there_is_nothing_to_do(how):
    private = gevent.core.loop(default=False)
    private.run(**how)
    called = []
    private.run_callback(called.append, 1)
    private.run(**how)
    assert called == [1]
    private.destroy()


def test_flags_of_a_loop_are_kept():
    private = gevent.core.loop(flags="epoll,nosigmask", default=False)
    assert {"epoll", "nosigmask"} <= set(private.origflags)
    assert private.origflags_int & 0x400004 == 0x400004
    private.destroy()
    for wrong in ("epol", "kqueue,noenv", ["port"]):
        with pytest.raises(ValueError):
            gevent.core.loop(flags=wrong)


def test_loop_and_its_callbacks_have_the_interfaces_that_gevent_documents(loop):
    from gevent._interfaces import ICallback, ILoop, IWatcher
    from zope.interface import verify

    assert verify.verifyObject(ILoop, loop)
    for call in (loop.run_callback, loop.run_callback_threadsafe):
        callback = call(int)
        assert verify.verifyObject(ICallback, callback)
        callback.stop()
    with loop.timer(1) as timer:
        assert verify.verifyObject(IWatcher, timer, tentative=True)


def test_loop_has_no_descriptor_for_signals(loop):
    assert "sigfd" in dir(type(loop)) and not hasattr(loop, "sigfd")
