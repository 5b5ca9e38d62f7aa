"""`gevent.util`: the state of a running program as text, blocks that must switch, and errors as values."""
import gc
import io
import re
import threading
import time

import gevent
import pytest
from gevent import util
from gevent.local import local
from gevent.lock import BoundedSemaphore, RLock, Semaphore
from gevent.monkey import get_original
from implementation import lowlevel, run_script


@pytest.fixture
def fresh_locals():
    gc.collect()
    yield
    gc.collect()


def raise_value_error():
    raise ValueError("wanted")


class TestRunInfo:
    def test_shows_threads_and_greenlets(self):
        text = "\n".join(util.format_run_info())
        assert "* Threads" in text
        assert "* Greenlets" in text
        assert "Thread boundary" in text
        assert "MainThread) (CURRENT)" in text
        assert "test_shows_threads_and_greenlets" in text

    def test_leaves_out_stacks_of_threads_on_request(self):
        text = "\n".join(util.format_run_info(thread_stacks=False, greenlet_stacks=False))
        assert "...stack elided..." in text
        assert "Running:" not in text
        assert "test_leaves_out_stacks" not in text

    def test_limits_the_frames_of_a_stack(self):
        def outermost(event):
            def middle():
                def innermost():
                    event.wait()

                innermost()

            middle()

        event = gevent.event.Event()
        g = gevent.spawn(outermost, event)
        gevent.sleep(0)
        try:
            everything = "\n".join(util.format_run_info(thread_stacks=False))
            limited = "\n".join(util.format_run_info(thread_stacks=False, limit=1))
        finally:
            event.set()
            g.join()
        assert "in outermost" in everything
        assert "in outermost" not in limited
        assert "Running:" in limited

    def test_marks_the_thread_that_it_is_told(self):
        own = threading.get_ident()
        marked = "\n".join(util.format_run_info(current_thread_ident=own))
        unmarked = "\n".join(util.format_run_info(current_thread_ident=0))
        assert "CURRENT" in marked
        assert "CURRENT" not in unmarked

    def test_shows_where_a_greenlet_waits_and_where_it_was_spawned(self, fresh_locals):
        def waits_here():
            event.wait()

        event = gevent.event.Event()
        g = gevent.spawn(waits_here)
        g.name = "the one that waits"
        gevent.sleep(0)
        try:
            text = "\n".join(util.format_run_info(thread_stacks=False))
        finally:
            event.set()
            g.join()
        assert "the one that waits" in text
        assert "in waits_here" in text
        assert "Spawned at:" in text
        assert "in test_shows_where_a_greenlet_waits_and_where_it_was_spawned" in text

    def test_shows_locals_of_greenlets_and_of_spawn_trees(self, fresh_locals):
        class Kind(local):
            pass

        values = Kind()

        def run():
            values.answer = "forty-two"
            gevent.getcurrent().spawn_tree_locals = {"tree": "its own"}
            return "\n".join(util.format_run_info())

        g = gevent.spawn(run)
        g.join()
        assert "Greenlet Locals:" in g.value
        assert "{'answer': 'forty-two'}" in g.value
        assert "Spawn Tree Locals" in g.value
        assert "{'tree': 'its own'}" in g.value

    def test_print_run_info_writes_to_a_file(self):
        stream = io.StringIO()
        util.print_run_info(file=stream)
        assert "* Greenlets" in stream.getvalue()

    def test_print_run_info_writes_to_standard_error_by_default(self, capsys):
        util.print_run_info(thread_stacks=False, greenlet_stacks=False)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "* Greenlets" in captured.err

    @pytest.mark.ours_only("gevent knows its idle worker by the frame of another CPython than this")
    def test_shows_the_threads_of_a_pool_as_idle(self):
        result = run_script("""
            import gevent
            from gevent import util
            pool = gevent.get_hub().threadpool
            pool.apply(int)
            # The result may be there before the thread looks for the next task.
            while "idle threadpool worker" not in "\\n".join(util.format_run_info()):
                gevent.sleep(0.001)
            print("\\n".join(util.format_run_info()))
        """)
        assert "idle threadpool worker" in result.stdout


class TestGreenletTree:
    def test_tree_shows_who_spawned_whom(self, fresh_locals):
        def child():
            return str(util.GreenletTree.current_tree())

        def parent():
            g = gevent.spawn(child)
            g.name = "the child"
            g.join()
            return g.value

        g = gevent.spawn(parent)
        g.name = "the parent"
        g.join()
        lines = g.value.splitlines()
        at_parent = next(index for index, line in enumerate(lines) if "the parent" in line)
        at_child = next(index for index, line in enumerate(lines) if "the child" in line)
        assert at_child == at_parent + 1
        assert lines[at_child].index("+---") > lines[at_parent].index("+---")

    def test_finished_greenlets_say_how(self, fresh_locals):
        good, bad = gevent.spawn(lambda: "a value"), gevent.spawn(raise_value_error)
        hub = gevent.get_hub()
        hub.exception_stream = None
        try:
            gevent.joinall([good, bad])
        finally:
            hub.exception_stream = None
            del hub.exception_stream
        text = str(util.GreenletTree.current_tree())
        assert "; finished with value 'a value'" in text
        assert "; finished with exception ValueError('wanted')" in text
        assert good.value == "a value" and bad.exception is not None

    def test_unstarted_greenlets_are_not_running(self, fresh_locals):
        g = gevent.spawn(int)
        text = str(util.GreenletTree.current_tree())
        assert "int>" in text and "int>; finished" not in text
        g.join()
        assert "int>; finished with value 0" in str(util.GreenletTree.current_tree())

    def test_forest_has_a_tree_for_each_thread(self):
        inside, leave = threading.Event(), threading.Event()

        def run():
            gevent.sleep(0)
            inside.set()
            leave.wait()
            gevent.get_hub().destroy(destroy_loop=True)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            inside.wait()
            forest = util.GreenletTree.forest()
        finally:
            leave.set()
            thread.join()
        assert len(forest) >= 2
        assert sum(tree.is_current_tree for tree in forest) == 1
        assert all(tree.root for tree in forest if tree.is_current_tree)

    def test_attributes_are_the_greenlets(self):
        g = gevent.spawn(int)
        tree = util.GreenletTree(g)
        assert tree.minimal_ident == g.minimal_ident
        assert tree.greenlet is g
        with pytest.raises(AttributeError):
            tree.no_such_attribute  # noqa: B018
        g.join()

    def test_details_can_be_chosen(self):
        tree = util.GreenletTree.current_tree()
        assert "Parent:" in tree.format()
        assert "Parent:" not in tree.format(details=False)
        assert "Spawned at:" not in tree.format(details={"running_stacks": False, "spawning_stacks": False})
        assert tree.format_lines(False) == tree.format(False).splitlines()

    def test_ignored_greenlets_are_left_out(self, fresh_locals):
        g = gevent.spawn(int)
        g.name = "not to be seen"
        g.greenlet_tree_is_ignored = True
        assert "not to be seen" not in "\n".join(tree.format(False) for tree in util.GreenletTree.forest())
        g.join()

    def test_a_greenlet_can_be_the_root_of_a_tree(self, fresh_locals):
        def run():
            return util.GreenletTree.current_tree()

        g = lowlevel.greenlet(run)
        g.greenlet_tree_is_root = True
        assert g.switch().greenlet is g


class TestAssertSwitches:
    def test_blocking_fails(self):
        with pytest.raises(AssertionError) as caught:
            with util.assert_switches():
                time.time()
        assert type(caught.value) is not AssertionError
        assert "To any greenlet in " in str(caught.value)
        assert "test_blocking_fails" in str(caught.value)

    def test_switching_passes(self):
        with util.assert_switches():
            gevent.sleep(0)

    def test_a_switch_to_another_greenlet_passes(self):
        g = lowlevel.greenlet(lambda: None)
        with util.assert_switches():
            g.switch()

    def test_hub_only_wants_the_hub(self):
        with pytest.raises(AssertionError, match="To the hub in"):
            with util.assert_switches(max_blocking_time=0.000001, hub_only=True):
                lowlevel.greenlet(lambda: None).switch()
        with util.assert_switches(max_blocking_time=60, hub_only=True):
            gevent.sleep(0)

    def test_too_long_a_time_between_switches_fails(self):
        with pytest.raises(AssertionError, match=r"max allowed 0\.0010 seconds"):
            with util.assert_switches(max_blocking_time=0.001):
                time.sleep(0.002)
                gevent.sleep(0)

    def test_waiting_in_the_hub_is_no_blocking(self):
        with util.assert_switches(max_blocking_time=60):
            gevent.sleep(0.01)

    def test_an_exception_leaves_the_block(self):
        with pytest.raises(ValueError, match="wanted"):
            with util.assert_switches():
                raise_value_error()

    def test_the_trace_function_before_comes_back(self):
        seen = []

        def trace(event, args):
            seen.append(event)

        lowlevel.settrace(trace)
        try:
            with util.assert_switches():
                gevent.sleep(0)
            assert lowlevel.gettrace() is trace
        finally:
            lowlevel.settrace(None)
        assert "switch" in seen


class TestWrapErrors:
    def test_returns_what_the_function_returns(self):
        assert util.wrap_errors(ValueError, int)("5") == 5

    def test_returns_the_errors_that_it_is_told(self):
        error = util.wrap_errors((ValueError, KeyError), int)("five")
        assert isinstance(error, ValueError)

    def test_raises_others(self):
        with pytest.raises(TypeError):
            util.wrap_errors(ValueError, int)([])

    def test_looks_like_the_function(self):
        wrapped = util.wrap_errors(ValueError, raise_value_error)
        assert repr(wrapped) == repr(raise_value_error)
        assert str(wrapped) == str(raise_value_error)
        assert wrapped.__name__ == "raise_value_error"
        assert wrapped.__code__ is raise_value_error.__code__


class TestOnSignal:
    PROGRAM = """
        import os, signal, sys, threading
        import gevent
        from gevent import event, util
        class Stream:
            # Standard error that says when a report is over.
            def __init__(self, over):
                self.over = over
                self.write = sys.stderr.write
            def flush(self):
                self.over()
        never = event.Event()
        def waits_for_ever():
            never.wait()
        g = gevent.spawn(waits_for_ever)
        g.name = "the waiting one"
        def send():
            os.kill(os.getpid(), signal.SIGQUIT)
    """

    @pytest.mark.ours_only("gevent has no print_run_info_on_signal")
    def test_shows_greenlets_and_waits_while_the_main_thread_is_in_the_hub(self):
        result = run_script(self.PROGRAM + """
        sleeps = gevent.spawn(gevent.sleep, 1000)
        over = event.Event()
        util.print_run_info_on_signal(file=Stream(over.set))
        threading.Timer(0.2, send).start()
        over.wait()
        print("went on")
        """)
        assert result.stdout == "went on\n"
        assert '"the waiting one"' in result.stderr
        assert "in waits_for_ever" in result.stderr
        assert "waits for Event at 0x" in result.stderr
        assert "waits for a timer (sleep)" in result.stderr

    @pytest.mark.ours_only("gevent has no print_run_info_on_signal")
    def test_shows_where_a_busy_loop_is(self):
        result = run_script(self.PROGRAM + """
        stop = []
        def busy_loop():
            while not stop:
                pass
        gevent.sleep(0)
        util.print_run_info_on_signal(file=Stream(lambda: stop.append(1)))
        threading.Timer(0.2, send).start()
        busy_loop()
        print("went on")
        """)
        assert result.stdout == "went on\n"
        assert "in busy_loop" in result.stderr
        assert "waits for Event at 0x" in result.stderr

    @pytest.mark.ours_only("gevent has no print_run_info_on_signal")
    def test_an_error_of_the_report_does_not_reach_the_program(self):
        result = run_script(self.PROGRAM + """
        class Bad(gevent.Greenlet):
            def __repr__(self):
                raise ValueError("no text")
        bad = Bad.spawn(never.wait)
        gevent.sleep(0)
        util.print_run_info_on_signal()
        send()
        print("went on")
        """)
        assert result.stdout == "went on\n"
        assert "ValueError: no text" in result.stderr

    @pytest.mark.ours_only("gevent has no GEVENT_RUN_INFO_SIGNAL")
    @pytest.mark.parametrize("name", ["SIGQUIT", "quit", "SIGUSR1"])
    def test_the_environment_can_turn_it_on(self, name):
        result = run_script("""
            import os, signal, sys
            import gevent
            name = os.environ["GEVENT_RUN_INFO_SIGNAL"].upper()
            os.kill(os.getpid(), getattr(signal, "SIG" + name.removeprefix("SIG")))
            print("went on")
        """, env={"GEVENT_RUN_INFO_SIGNAL": name})
        assert result.stdout == "went on\n"
        assert "* Greenlets" in result.stderr

    @pytest.mark.ours_only("gevent has no GEVENT_RUN_INFO_SIGNAL")
    def test_the_environment_must_name_a_signal(self):
        result = run_script("import gevent", env={"GEVENT_RUN_INFO_SIGNAL": "SIG_IGN"}, check=False)
        assert result.returncode != 0
        assert "ValueError: GEVENT_RUN_INFO_SIGNAL must be the name of a signal" in result.stderr
        assert "'SIG_IGN'" in result.stderr


@pytest.mark.ours_only("gevent does not say what greenlets wait for")
class TestWaits:
    @pytest.fixture(autouse=True)
    def thawed(self):
        """Let the report find this greenlet: `conftest` has frozen what was there before the first test."""
        gc.unfreeze()
        yield
        gc.freeze()

    @staticmethod
    def waits():
        """Return the lines of the report's last part, after some time in which all have gone as far as they can."""
        gevent.sleep(0.15)
        lines = util.format_run_info(thread_stacks=False, greenlet_stacks=False)
        return lines[lines.index("* Waits") + 2:] if "* Waits" in lines else []

    @staticmethod
    def spawn(name, function, *args):
        g = gevent.spawn(function, *args)
        g.name = name
        return g

    @staticmethod
    def hold_then_take(first, second):
        with first:
            gevent.sleep(0.01)
            with second:
                pass

    def one_line(self, lines, start):
        (found,) = [line for line in lines if line.startswith(f'<Greenlet "{start}"')]
        return found

    def test_holder_of_a_lock_and_how_long_the_wait_has_lasted(self):
        lock = RLock()
        with lock:
            waiting = self.spawn("waiting", lock.acquire)
            line = self.one_line(self.waits(), "waiting")
            assert "waits for RLock at 0x" in line
            assert f"held by {gevent.getcurrent()!r}" in line
            assert re.search(r", for [0-9]+\.[0-9] s$", line)
        assert waiting.get() is True
        assert not [line for line in self.waits() if '"waiting"' in line]

    def test_semaphore_of_several_has_no_holder(self):
        semaphore = Semaphore(2)
        semaphore.acquire(), semaphore.acquire()
        waiting = self.spawn("waiting", semaphore.acquire)
        assert "held by" not in self.one_line(self.waits(), "waiting")
        waiting.kill()

    def test_circle_of_locks_is_named_while_others_still_run(self):
        locks = [RLock(), Semaphore(1), BoundedSemaphore(1)]
        ticks = []
        running = self.spawn("running", lambda: [ticks.append(gevent.sleep(0.001)) for _ in range(100_000)])
        circle = [
            self.spawn(f"member {number}", self.hold_then_take, locks[number], locks[(number + 1) % 3])
            for number in range(3)
        ]
        outside = self.spawn("outside", circle[0].join)
        lines = self.waits()
        (deadlock,) = [line for line in lines if line.startswith("Deadlock:")]
        assert all(deadlock.count(f'"member {number}"') == 1 for number in range(3))
        assert "outside" not in deadlock and "running" not in deadlock
        assert 'waits for <Greenlet "member 0"' in self.one_line(lines, "outside")
        assert ticks
        gevent.killall([running, outside, *circle])
        assert not [line for line in self.waits() if line.startswith("Deadlock:")]

    def test_circle_of_joins_is_named(self):
        greenlets = []
        greenlets.append(self.spawn("first", lambda: greenlets[1].join()))
        greenlets.append(self.spawn("second", lambda: greenlets[0].join()))
        greenlets.append(self.spawn("alone", lambda: gevent.getcurrent().join()))
        deadlocks = [line for line in self.waits() if line.startswith("Deadlock:")]
        assert len(deadlocks) == 2
        assert any('"first"' in line and '"second"' in line for line in deadlocks)
        assert any('"alone"' in line and line.endswith("waits for itself") for line in deadlocks)
        gevent.killall(greenlets)

    def test_greenlets_of_other_threads_are_shown(self):
        lock = Semaphore(1)
        lock.acquire()
        begun, ended = [], []

        def elsewhere():
            g = self.spawn("elsewhere", lock.acquire)
            begun.append(g)
            g.join()
            ended.append(g)

        thread = get_original("threading", "Thread")(target=elsewhere)
        thread.start()
        while not begun:
            gevent.sleep(0.001)
        line = self.one_line(self.waits(), "elsewhere")
        assert f"held by {gevent.getcurrent()!r}" in line
        lock.release()
        while not ended:
            gevent.sleep(0.001)
        thread.join()

    def test_lock_of_a_greenlet_that_is_gone(self):
        lock = RLock()
        gevent.spawn(lock.acquire).join()
        gc.collect()
        waiting = self.spawn("waiting", lock.acquire)
        assert "held by a greenlet that is gone" in self.one_line(self.waits(), "waiting")
        waiting.kill()

    def test_loop_exit_names_the_circle(self):
        result = run_script("""
        import gevent
        from gevent.lock import RLock
        one, two = RLock(), RLock()
        def hold_then_take(first, second):
            with first:
                gevent.sleep(0.01)
                with second:
                    pass
        greenlets = [gevent.spawn(hold_then_take, one, two), gevent.spawn(hold_then_take, two, one)]
        try:
            gevent.joinall(greenlets)
        except gevent.hub.LoopExit as error:
            print("Deadlock: " in str(error), str(error).count("held by"))
        """)
        assert result.stdout == "True 2\n"


def test_report_of_a_block_that_did_not_switch_begins_with_the_time_as_rfc_3339_has_it():
    time_of_report = r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    with pytest.raises(AssertionError, match=time_of_report + " : Greenlet .* appears to be blocked"):
        with util.assert_switches():
            pass
