"""Who watches whether a thread switches: for the monitoring thread and for `gevent.util.assert_switches`.

The native base only counts, at no cost to the thread that it watches. The two classes at the end want to be called at
each switch, as they look at the time.
"""
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from gevent import _greenrust
from gevent._run_info import format_run_info

__all__ = ["GreenletTracer", "HubSwitchTracer", "MaxSwitchTracer"]


class GreenletTracer(_greenrust.GreenletTracer):
    """Watches the calling thread until `kill`; knows whether it has switched since it was asked last."""

    def did_block_hub_report(self, hub: Any, active_greenlet: Any, format_kwargs: Mapping[str, Any]) -> list[str]:
        """Return lines that show where *active_greenlet* is and what else there is in the process.

        *format_kwargs* are those of `gevent.util.format_run_info`.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        frame = sys._current_frames().get(hub.thread_ident)
        if frame is None:
            stack = f"Unknown: no thread belongs to {hub!r}\n"
        else:
            stack = "".join(traceback.format_stack(frame))
        return [
            "=" * 80,
            f"\n{now} : Greenlet {active_greenlet} appears to be blocked",
            f"    Reported by {self}",
            f"Blocked Stack (for thread id {hub.thread_ident:#x}):",
            stack,
            "Info:",
            *format_run_info(**format_kwargs),
        ]


class _HubTracer(GreenletTracer):
    def __init__(self, hub: Any, max_blocking_time: float) -> None:
        self.hub: Any = hub
        self.max_blocking_time = max_blocking_time
        super().__init__()

    def kill(self) -> None:
        self.hub = None
        super().kill()


class HubSwitchTracer(_HubTracer):
    """Finds a thread blocked that has not been in the hub for *max_blocking_time* seconds."""

    def __init__(self, hub: Any, max_blocking_time: float) -> None:
        self.last_entered_hub = 0.0
        super().__init__(hub, max_blocking_time)

    def _trace(self, event: str, args: Any) -> None:
        super()._trace(event, args)
        if self.active_greenlet is self.hub:
            self.last_entered_hub = time.perf_counter()

    def did_block_hub(self, hub: Any) -> Any:
        """Return False, or (True, the greenlet that runs)."""
        if time.perf_counter() - self.last_entered_hub > self.max_blocking_time:
            return True, self.active_greenlet
        return False


class MaxSwitchTracer(_HubTracer):
    """Finds a thread blocked in which some greenlet ran for more than *max_blocking_time* seconds without switching."""

    def __init__(self, hub: Any, max_blocking_time: float) -> None:
        self.max_blocking = 0.0
        self.last_switch = time.perf_counter()
        super().__init__(hub, max_blocking_time)

    def _note(self) -> None:
        now = time.perf_counter()
        self.max_blocking = max(self.max_blocking, now - self.last_switch)
        self.last_switch = now

    def _trace(self, event: str, args: Any) -> None:
        # What goes by in the hub is no blocking.
        if self.active_greenlet is self.hub:
            self.last_switch = time.perf_counter()
        else:
            self._note()
        super()._trace(event, args)

    def did_block_hub(self, hub: Any) -> Any:
        """Return False, or (True, the greenlet that runs)."""
        if self.active_greenlet is not self.hub:
            self._note()
        if self.max_blocking > self.max_blocking_time:
            return True, self.active_greenlet
        return False
