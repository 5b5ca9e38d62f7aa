"""The thread that watches a hub: greenlets that block, memory, and functions that programs add."""
import io
import sys
import threading

import gevent
import pytest
from gevent import events
from gevent.monkey import get_original
from implementation import lowlevel, run_script

# Whatever waits for the monitoring thread must keep the hub's thread from switching.
NativeEvent = threading.Event
LIMIT = 30      # seconds after which a test fails that waits in vain


@pytest.fixture
def monitor():
    hub = gevent.get_hub()
    before = gevent.config.monitor_thread, gevent.config.max_blocking_time, gevent.config.print_blocking_reports
    gevent.config.monitor_thread = True
    gevent.config.max_blocking_time = 0.01
    hub.exception_stream = io.StringIO()
    started = hub.start_periodic_monitoring_thread()
    gevent.sleep(0)
    try:
        yield started
    finally:
        started.kill()
        hub.periodic_monitoring_thread = None
        (gevent.config.monitor_thread, gevent.config.max_blocking_time,
         gevent.config.print_blocking_reports) = before
        del hub.exception_stream


@pytest.fixture
def subscribed():
    """A function that subscribes another one to gevent's events, until the test is over."""
    before = list(events.subscribers)
    yield events.subscribers.append
    events.subscribers[:] = before


def looks(monitor, count=1):
    """Wait, without a switch, until the thread has looked *count* times, and this function ran at each."""
    remaining = [count]
    done = NativeEvent()

    def look(_hub):
        remaining[0] -= 1
        if remaining[0] <= 0:
            done.set()

    monitor.add_monitoring_function(look, 0.005)
    try:
        assert done.wait(LIMIT)
    finally:
        monitor.add_monitoring_function(look, None)


class TestStart:
    def test_there_is_none_unless_asked_for(self):
        assert gevent.config.monitor_thread is False
        assert gevent.get_hub().start_periodic_monitoring_thread() is None

    def test_one_call_returns_what_another_started(self, monitor):
        hub = gevent.get_hub()
        assert hub.start_periodic_monitoring_thread() is monitor
        assert hub.periodic_monitoring_thread is monitor
        assert monitor.hub is hub
        assert events.IPeriodicMonitorThread.providedBy(monitor)
        assert "PeriodicMonitoringThread" in repr(monitor)

    def test_the_hub_starts_it_by_the_environment(self):
        result = run_script("""
            import gevent
            hub = gevent.get_hub()
            print(hub.periodic_monitoring_thread)
            gevent.sleep(0.001)
            print(type(hub.periodic_monitoring_thread).__name__)
            print(gevent.config.max_blocking_time, gevent.config.print_blocking_reports)
            print(gevent.config.memory_monitor_period, gevent.config.max_memory_usage)
        """, env={
            "GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "2.5",
            "GEVENT_MONITOR_PRINT_BLOCKING_REPORTS": "0", "GEVENT_MONITOR_MEMORY_PERIOD": "7",
            "GEVENT_MONITOR_MEMORY_MAX": "2gb",
        })
        assert result.stdout.splitlines() == ["None", "PeriodicMonitoringThread", "2.5 False", f"7.0 {2 << 30}"]

    def test_subscribers_and_plugins_are_told(self, tmp_path):
        (tmp_path / "their_plugin.py").write_text("def started(event): print('plugin', event.monitor is not None)\n")
        information = tmp_path / "their_plugin-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(
            "[gevent.plugins.hub.periodic_monitor_thread_started]\nthem = their_plugin:started\n"
        )
        result = run_script("""
            import gevent
            from gevent import events
            def told(event):
                known = events.IPeriodicMonitorThreadStartedEvent.providedBy(event)
                print("subscriber", type(event).__name__, known, type(event.monitor).__name__)
            events.subscribers.append(told)
            gevent.get_hub().start_periodic_monitoring_thread()
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1", "PYTHONPATH": str(tmp_path)})
        assert result.stdout.splitlines() == [
            "subscriber PeriodicMonitorThreadStartedEvent True PeriodicMonitoringThread", "plugin True",
        ]

    def test_it_goes_with_its_hub(self):
        result = run_script("""
            import gevent
            hub = gevent.get_hub()
            monitor = hub.start_periodic_monitoring_thread()
            hub.destroy(destroy_loop=True)
            print(monitor.should_run, hub.periodic_monitoring_thread)
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1"})
        assert result.stdout.split() == ["False", "None"]


class TestFunctions:
    @pytest.mark.ours_only("gevent's thread ends at once when the hub has not run yet")
    def test_a_hub_that_has_not_run_yet_is_watched(self):
        result = run_script("""
            import gevent, threading
            called = threading.Event()
            gevent.get_hub().start_periodic_monitoring_thread().add_monitoring_function(lambda hub: called.set(), 0.005)
            print(called.wait(20))
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "0.01"})
        assert result.stdout.split() == ["True"]

    def test_a_function_is_called_with_the_hub_in_the_other_thread(self, monitor):
        calls, called = [], NativeEvent()

        def look(hub):
            calls.append((hub, get_original("_thread", "get_ident")()))
            called.set()

        monitor.add_monitoring_function(look, 0.005)
        assert called.wait(LIMIT)
        monitor.add_monitoring_function(look, None)
        assert calls[0] == (gevent.get_hub(), monitor.monitor_thread_ident)
        assert calls[0][1] != gevent.get_hub().thread_ident

    def test_a_second_call_changes_the_period_and_none_removes(self, monitor):
        def look(_hub):
            """Does nothing."""

        number = len(monitor.monitoring_functions())
        monitor.add_monitoring_function(look, 5)
        monitor.add_monitoring_function(look, 0.5)
        assert len(monitor.monitoring_functions()) == number + 1
        last = monitor.monitoring_functions()[-1]
        assert (last.function, last.period) == (look, 0.5)
        monitor.add_monitoring_function(look, None)
        assert len(monitor.monitoring_functions()) == number

    @pytest.mark.parametrize("period", [0, -1, -0.5])
    def test_a_period_must_be_positive(self, monitor, period):
        with pytest.raises(ValueError):
            monitor.add_monitoring_function(print, period)

    def test_a_function_must_be_callable(self, monitor):
        with pytest.raises(ValueError):
            monitor.add_monitoring_function(None, 1)

    def test_the_shortest_period_decides_how_long_the_thread_sleeps(self, monitor):
        monitor.kill()      # only its list is looked at
        monitor.add_monitoring_function(print, 4)
        for entry in list(monitor.monitoring_functions()):
            if entry.function is not print:
                monitor.add_monitoring_function(entry.function, None)
        assert monitor.calculate_sleep_time() == 4
        monitor.add_monitoring_function(id, 3)
        assert monitor.calculate_sleep_time() == 3
        monitor.add_monitoring_function(id, 0.000001)
        assert monitor.calculate_sleep_time() == monitor.min_sleep_time

    def test_an_error_of_a_function_is_reported_by_the_hub(self):
        result = run_script("""
            import gevent, threading
            hub = gevent.get_hub()
            gevent.sleep(0.001)         # the hub runs from then on
            monitor = hub.start_periodic_monitoring_thread()
            seen = threading.Event()
            hub.handle_error = lambda context, type, value, tb: (print(context is monitor, value), seen.set())
            def fail(hub):
                raise ValueError("from the function")
            monitor.add_monitoring_function(fail, 0.005)
            assert seen.wait(20)
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1"})
        assert result.stdout.split("\n")[0] == "True from the function"

    def test_the_thread_is_started_anew_in_the_child_of_a_fork(self):
        result = run_script("""
            import gevent, os, sys
            from gevent.monkey import get_original
            hub = gevent.get_hub()
            gevent.sleep(0.001)         # the hub runs from then on
            monitor = hub.start_periodic_monitoring_thread()
            def look(hub):
                if os.getpid() != parent:
                    print("watched in the child", flush=True)
                    os._exit(0)
            parent = os.getpid()
            monitor.add_monitoring_function(look, 0.005)
            pid = gevent.os.fork()
            if pid == 0:
                get_original("time", "sleep")(20)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "60"})
        assert result.stdout.splitlines() == ["watched in the child", "0"]


    @pytest.mark.ours_only("gevent raises ValueError for an empty list")
    def test_all_functions_may_be_removed(self, monitor):
        monitor.kill()
        for entry in list(monitor.monitoring_functions()):
            monitor.add_monitoring_function(entry.function, None)
        assert monitor.calculate_sleep_time() == monitor.inactive_sleep_time


class TestBlocking:
    def test_a_greenlet_that_does_not_switch_is_reported(self, monitor, subscribed):
        seen, told = [], NativeEvent()

        def subscriber(event):
            if isinstance(event, events.EventLoopBlocked) and not told.is_set():
                seen.append(event)
                event.info[:] = ["edited by a subscriber"]
                told.set()

        def block():
            assert told.wait(LIMIT)
            looks(monitor)          # what was reported has been printed by then

        subscribed(subscriber)
        g = gevent.spawn(block)
        g.join()
        g.get()
        event = seen[0]
        assert events.IEventLoopBlocked.providedBy(event)
        assert event.hub is gevent.get_hub()
        assert event.greenlet is g
        assert event.blocking_time == 0.01
        printed = gevent.get_hub().exception_stream.getvalue()
        assert "edited by a subscriber" in printed.splitlines()

    def test_the_report_shows_the_stack(self, monitor):
        def the_one_that_blocks():
            looks(monitor, 4)

        g = gevent.spawn(the_one_that_blocks)
        g.join()
        g.get()
        printed = gevent.get_hub().exception_stream.getvalue()
        assert "appears to be blocked" in printed
        assert "PeriodicMonitoringThread" in printed
        assert "in the_one_that_blocks" in printed

    def test_reports_need_not_be_printed(self, monitor, subscribed):
        told = NativeEvent()
        subscribed(lambda event: told.set())
        gevent.config.print_blocking_reports = False
        assert told.wait(LIMIT)
        looks(monitor)
        assert gevent.get_hub().exception_stream.getvalue() == ""

    def test_a_greenlet_can_be_excused(self, monitor, subscribed):
        seen = []
        subscribed(seen.append)
        gevent.config.max_blocking_time = 60        # nobody looks but we
        looks(monitor)
        gevent.sleep(0)
        hub = gevent.get_hub()
        monitor.ignore_current_greenlet_blocking()
        monitor.monitor_blocking(hub)
        assert monitor.monitor_blocking(hub) is None
        monitor.monitor_current_greenlet_blocking()
        active, report = monitor.monitor_blocking(hub)
        assert active is gevent.getcurrent()
        assert any("appears to be blocked" in line for line in report)

    def test_waiting_in_the_hub_is_no_blocking(self, monitor, subscribed):
        gevent.config.max_blocking_time = 60
        seen = []
        subscribed(seen.append)
        results = []
        looked = gevent.event.Event()
        watcher = gevent.get_hub().loop.async_()
        watcher.start(looked.set)

        def look(hub):
            results.append(monitor.monitor_blocking(hub))
            if len(results) == 3:
                watcher.send()

        monitor.add_monitoring_function(look, 0.005)
        looked.wait()
        monitor.add_monitoring_function(look, None)
        watcher.close()
        assert results[1:3] == [None, None]

    def test_kill_brings_back_the_trace_function_before(self, monitor):
        assert lowlevel.gettrace() is not None
        monitor.kill()
        assert lowlevel.gettrace() is None
        assert monitor.should_run is False

    def test_a_trace_function_before_it_is_still_called(self):
        seen = []

        def trace(event, args):
            seen.append(event)

        before = gevent.config.monitor_thread
        gevent.config.monitor_thread = True
        lowlevel.settrace(trace)
        hub = gevent.get_hub()
        try:
            monitor = hub.start_periodic_monitoring_thread()
            gevent.sleep(0)
            assert "switch" in seen
            monitor.kill()
            assert lowlevel.gettrace() is trace
        finally:
            lowlevel.settrace(None)
            hub.periodic_monitoring_thread = None
            gevent.config.monitor_thread = before


class TestMemory:
    @pytest.fixture
    def limit(self):
        before = gevent.config.max_memory_usage
        yield
        gevent.config.max_memory_usage = before

    def test_tells_of_too_much_memory_and_of_less_again(self, monitor, subscribed, limit):
        gevent.config.max_blocking_time = 60
        seen = []
        subscribed(seen.append)
        hub = gevent.get_hub()
        assert monitor.can_monitor_memory_usage()
        # The thread is not to look between two calls of ours.
        monitor.add_monitoring_function(monitor.monitor_memory_usage, None)
        assert monitor.monitor_memory_usage(hub) == -1
        gevent.config.max_memory_usage = "1kb"
        exceeded = monitor.monitor_memory_usage(hub)
        assert events.IMemoryUsageThresholdExceeded.providedBy(exceeded)
        assert exceeded.max_allowed == 1024 < exceeded.mem_usage
        assert exceeded.memory_info.rss > 0
        gevent.config.max_memory_usage = "900gb"
        under = monitor.monitor_memory_usage(hub)
        assert events.IMemoryUsageUnderThreshold.providedBy(under)
        assert under.max_memory_usage >= exceeded.mem_usage
        assert under.max_allowed == 900 << 30
        assert monitor.monitor_memory_usage(hub) is None
        assert [event for event in seen if "Memory" in type(event).__name__] == [exceeded, under]

    def test_warns_when_psutil_is_missing(self):
        result = run_script("""
            import sys, warnings
            sys.modules["psutil"] = None
            import gevent
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                monitor = gevent.get_hub().start_periodic_monitoring_thread()
            print(caught[0].category.__name__, issubclass(caught[0].category, RuntimeWarning))
            print(monitor.can_monitor_memory_usage(), len(monitor.monitoring_functions()))
        """, env={"GEVENT_MONITOR_THREAD_ENABLE": "1"})
        assert result.stdout.split() == ["MonitorWarning", "True", "False", "1"]

    def test_the_thread_watches_it_by_itself(self):
        result = run_script("""
            import gevent, threading
            from gevent import events
            told = threading.Event()
            events.subscribers.append(
                lambda event: isinstance(event, events.MemoryUsageThresholdExceeded) and told.set())
            gevent.sleep(0.001)         # the hub runs from then on
            monitor = gevent.get_hub().start_periodic_monitoring_thread()
            monitor.add_monitoring_function(monitor.monitor_memory_usage, 0.005)
            print(told.wait(20))
        """, env={
            "GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MONITOR_MEMORY_MAX": "1mb",
            "GEVENT_MONITOR_PRINT_BLOCKING_REPORTS": "0",
        })
        assert result.stdout.split() == ["True"]

    def test_only_the_main_threads_monitor_watches_it(self, monitor):
        assert monitor.monitor_memory_usage in [entry.function for entry in monitor.monitoring_functions()]
        found = []

        def run():
            hub = gevent.get_hub()
            other = hub.start_periodic_monitoring_thread()
            found.append([entry.function for entry in other.monitoring_functions()] == [other.monitor_blocking])
            hub.destroy(destroy_loop=True)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert found == [True]


class TestEvents:
    def test_subscribers_are_those_of_zope(self):
        zope_event = sys.modules.get("zope.event")
        assert zope_event is not None
        assert events.subscribers is zope_event.subscribers

    @pytest.mark.parametrize("name", [name for name in events.__all__ if name.startswith("I")])
    def test_each_interface_has_a_class(self, name):
        interface = getattr(events, name)
        if name != "IPeriodicMonitorThread":
            assert interface.implementedBy(getattr(events, name[1:]))
