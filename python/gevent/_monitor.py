"""The thread that watches a hub: whether a greenlet blocks it, how much memory there is, and what programs add.

It is a thread of the system, started below all patches, and must not use anything that waits for a hub.
"""
import os
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from gevent._config import config
from gevent._greenrust import getcurrent
from gevent._tracer import GreenletTracer
from gevent.events import (
    EventLoopBlocked,
    IPeriodicMonitorThread,
    MemoryUsageThresholdExceeded,
    MemoryUsageUnderThreshold,
    PeriodicMonitorThreadStartedEvent,
    implementer,
    notify,
    notify_and_call_entry_points,
)
from gevent.monkey.api import get_original

__all__ = ["PeriodicMonitoringThread"]

get_thread_ident = get_original("_thread", "get_ident")
start_new_thread = get_original("_thread", "start_new_thread")
thread_sleep = get_original("time", "sleep")


class MonitorWarning(RuntimeWarning):
    """Something cannot be watched here."""


class _Entry:
    """A function that the thread calls, and when it did so last."""

    __slots__ = ("function", "last_run_time", "period")

    def __init__(self, function: Callable[[Any], Any], period: float | None) -> None:
        self.function = function
        self.period = period
        self.last_run_time = 0.0

    def __repr__(self) -> str:
        return f"<{self.function!r} each {self.period} s>"


def get_this_psutil_process() -> Any:
    """Return psutil's object of this process, or None when there is none."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        process = psutil.Process()
        process.memory_full_info()
    except psutil.Error:
        return None
    return process


@implementer(IPeriodicMonitorThread)
class PeriodicMonitoringThread:
    """The thread that watches *hub*: made in the hub's own thread, by `Hub.start_periodic_monitoring_thread`.

    It ends by `kill`, or when the hub is gone.
    """

    #: Seconds between two looks when there is nothing to look at.
    inactive_sleep_time = 2.0
    #: Seconds that lie between two looks at least, whatever the functions ask for.
    min_sleep_time = 0.005
    #: Seconds that lie between two looks at the memory at least: asking the system takes long.
    min_memory_monitor_period = 2

    def __init__(self, hub: Any) -> None:
        assert get_thread_ident() == hub.thread_ident, "a hub is watched from its own thread on"
        #: False once the thread is to end.
        self.should_run = True
        self._hub_wref: weakref.ref[Any] = weakref.ref(hub, self._on_hub_gc)
        self._greenlet_tracer: Any = GreenletTracer()
        self._process: Any = None
        #: The memory in use, in bytes, when the limit was last seen exceeded; else 0.
        self._memory_exceeded = 0
        # The first one is always the blocking detector, whose period is a setting that may change.
        self._monitoring_functions = [_Entry(self.monitor_blocking, config.max_blocking_time)]
        self._calculated_sleep_time: float = 0
        self._calculate()
        self.pid = os.getpid()
        #: The thread's ident.
        self.monitor_thread_ident: int = start_new_thread(self, ())

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {id(self):#x} in thread {self.monitor_thread_ident:#x}"
            f" greenlet {getcurrent()!r} for {self.hub!r}>"
        )

    @property
    def hub(self) -> Any:
        """The hub, or None when it is gone."""
        return self._hub_wref()

    # -- the functions --------------------------------------------------------------------------------------

    def _calculate(self) -> None:
        self._calculated_sleep_time = min((entry.period or 0 for entry in self._monitoring_functions), default=0)

    def monitoring_functions(self) -> list[_Entry]:
        """Return what is called: objects with `function`, `period` and `last_run_time`, in seconds."""
        detector = self._monitoring_functions[0] if self._monitoring_functions else None
        if detector is not None and detector.function == self.monitor_blocking:
            limit = config.max_blocking_time
            if detector.period != limit:
                detector.period = limit
                self._calculate()
        return self._monitoring_functions

    def add_monitoring_function(self, function: Callable[[Any], Any], period: float | None) -> None:
        """Have *function* called with the hub, in this thread, about every *period* seconds.

        If it is called already, only the period changes; None stops it. Raises ValueError when *function* cannot be
        called, or *period* is not positive.
        """
        if not callable(function):
            raise ValueError(f"function must be callable, not {function!r}")
        if period is not None and period <= 0:
            raise ValueError(f"period must be positive, not {period!r}")
        # A new list each time: the thread may be going through the present one.
        others = [entry for entry in self._monitoring_functions if entry.function != function]
        if period is None:
            self._monitoring_functions = others
        elif len(others) == len(self._monitoring_functions):
            self._monitoring_functions = [*others, _Entry(function, period)]
        else:
            self._monitoring_functions = [
                _Entry(function, period) if entry.function == function else entry
                for entry in self._monitoring_functions
            ]
        self._calculate()

    def calculate_sleep_time(self) -> float:
        """Return how many seconds the thread sleeps between two looks."""
        if self._calculated_sleep_time <= 0:
            # All are turned off. They may be turned on again.
            return self.inactive_sleep_time
        return max(self._calculated_sleep_time, self.min_sleep_time)

    # -- the life of the thread -----------------------------------------------------------------------------

    def kill(self) -> None:
        """Stop watching: the thread ends at its next look, the trace function that was there before comes back."""
        if not self.should_run:
            return
        self.should_run = False
        self._greenlet_tracer.kill()

    def _on_hub_gc(self, _reference: Any) -> None:
        self.kill()

    def _on_fork(self) -> None:
        """In the child of a fork, which has none of the parent's threads: start anew."""
        pid = os.getpid()
        if pid == self.pid:
            return
        self.pid = pid
        if self.should_run:
            self.monitor_thread_ident = start_new_thread(self, ())

    def __call__(self) -> None:
        """Look again and again; what the thread runs."""
        getcurrent().gevent_monitoring_thread = weakref.ref(self)
        pid = self.pid
        try:
            while self.should_run and self.pid == pid:
                functions = self.monitoring_functions()
                thread_sleep(self.calculate_sleep_time())
                hub = self.hub
                # A hub that has not begun to run is false, and not dead: greenlets may switch among themselves.
                if not hub and getattr(hub, "dead", True):
                    self.kill()
                if self.should_run:
                    self._look(hub, functions)
                # While it sleeps, the thread keeps no hub alive.
                del hub
        except SystemExit:
            pass
        except BaseException:
            # At the end of the process, what is needed for a report may be gone.
            hub = self.hub
            if hub is not None and sys is not None and sys.stderr:
                hub.handle_error(self, *sys.exc_info())

    def _look(self, hub: Any, functions: list[_Entry]) -> None:
        now = time.perf_counter()
        for entry in functions:
            if entry.period and entry.last_run_time + entry.period <= now:
                entry.last_run_time = now
                entry.function(hub)

    # -- blocking -------------------------------------------------------------------------------------------

    def monitor_blocking(self, hub: Any) -> Any:
        """Report, as an event and on the hub's `exception_stream`, that no greenlet has switched since the last call.

        Returns None when all is well, else the greenlet that runs and the lines of the report.
        """
        blocked = self._greenlet_tracer.did_block_hub(hub)
        if not blocked:
            return None
        greenlet = blocked[1]
        report = self._greenlet_tracer.did_block_hub_report(
            hub, greenlet, {"greenlet_stacks": False, "current_thread_ident": self.monitor_thread_ident}
        )
        # Whoever is told may change the report.
        notify(EventLoopBlocked(greenlet, config.max_blocking_time, report, hub=hub))
        return self._show_blocking_report(hub, report, greenlet)

    def _show_blocking_report(self, hub: Any, report: list[str], active_greenlet: Any) -> Any:
        """Print the lines of a report; a subclass, or an assignment, may put them elsewhere."""
        if config.print_blocking_reports:
            stream = hub.exception_stream
            for line in report:
                # Line by line, since what is printed at once by two threads may get lost.
                print(line, file=stream)
        return active_greenlet, report

    def ignore_current_greenlet_blocking(self) -> None:
        """Don't report the greenlet that runs in the hub's thread, until it switches. Call it there."""
        self._greenlet_tracer.ignore_current_greenlet_blocking()

    def monitor_current_greenlet_blocking(self) -> None:
        """Watch the calling greenlet again, after `ignore_current_greenlet_blocking`."""
        self._greenlet_tracer.monitor_current_greenlet_blocking()

    # -- memory ---------------------------------------------------------------------------------------------

    def _get_process(self) -> Any:
        if self._process is None:
            self._process = get_this_psutil_process()
        return self._process

    def can_monitor_memory_usage(self) -> bool:
        """Say whether the memory of the process can be watched: whether psutil is there, and may ask."""
        return self._get_process() is not None

    def install_monitor_memory_usage(self) -> None:
        """Watch the memory, every `gevent.config.memory_monitor_period` seconds; warns if that cannot be."""
        if not self.can_monitor_memory_usage():
            warnings.warn("Unable to monitor memory usage. Install psutil.", MonitorWarning, stacklevel=2)
            return
        period = max(config.memory_monitor_period, self.min_memory_monitor_period)
        self.add_monitoring_function(self.monitor_memory_usage, period)

    def monitor_memory_usage(self, _hub: Any) -> Any:
        """Emit an event when the process uses more memory than `gevent.config.max_memory_usage`, or no more.

        Returns the event, or None; -1 when there is no limit. As long as there is too much, another event follows only
        when there is more than the last time.
        """
        limit = config.max_memory_usage
        if not limit:
            return -1
        memory_info = self._get_process().memory_full_info()
        # What would be free if the process ended; not every system can tell.
        used = getattr(memory_info, "uss", 0) or memory_info.rss
        before, self._memory_exceeded = self._memory_exceeded, used if used > limit else 0
        event: Any = None
        if used > limit:
            if used > before:
                event = MemoryUsageThresholdExceeded(used, limit, memory_info)
        elif before:
            event = MemoryUsageUnderThreshold(used, limit, memory_info, before)
        if event is not None:
            notify(event)
        return event


def start(hub: Any) -> None:
    """Give *hub* its monitoring thread, and tell those who want to add functions of theirs."""
    hub.periodic_monitoring_thread = monitor = PeriodicMonitoringThread(hub)
    if hub.main_hub:
        # The memory is the whole process's: one thread that looks at it is enough.
        monitor.install_monitor_memory_usage()
    notify_and_call_entry_points(PeriodicMonitorThreadStartedEvent(monitor))
