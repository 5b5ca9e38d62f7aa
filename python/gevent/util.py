"""Looking into a running program: its threads and greenlets as text, and blocks that must switch."""
import functools
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from gevent._greenrust import get_hub
from gevent._run_info import GreenletTree, format_run_info, print_run_info, print_run_info_on_signal
from gevent._tracer import GreenletTracer, HubSwitchTracer, MaxSwitchTracer

__all__ = [
    "format_run_info",
    "print_run_info",
    "print_run_info_on_signal",
    "GreenletTree",
    "wrap_errors",
    "assert_switches",
]

#: An earlier name of `format_run_info`.
dump_stacks = format_run_info


class wrap_errors:
    """Make a function return the exceptions of certain classes instead of raising them.

    ``wrap_errors(errors, function)(*args, **kwargs)`` returns what *function* returns or raises, if the latter is of
    *errors* (a class or a tuple of them). It shows itself as *function*, whose attributes it has.
    """

    def __init__(self, errors: Any, func: Callable[..., Any]) -> None:
        self.__errors = errors
        self.__func = func
        functools.update_wrapper(self, func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.__func(*args, **kwargs)
        except self.__errors as error:
            return error

    def __str__(self) -> str:
        return str(self.__func)

    def __repr__(self) -> str:
        return repr(self.__func)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func, name)


class _FailedToSwitch(AssertionError):
    """A block that was to switch did not, or not soon enough."""


class assert_switches:
    """A context whose block must switch; else a subclass of AssertionError is raised at its end.

    Without *max_blocking_time*, the block must switch at least once. With it, it must never run for longer than that
    many seconds (a float) without a switch; with *hub_only*, without being in the hub. An exception that leaves the
    block is not hidden.
    """

    #: The hub, while the block runs.
    hub: Any = None
    #: What watches the switches, while the block runs.
    tracer: Any = None

    def __init__(self, max_blocking_time: float | None = None, hub_only: bool = False) -> None:
        self.max_blocking_time = max_blocking_time
        self.hub_only = hub_only
        self._entered = 0.0

    def __enter__(self) -> Self:
        self.hub = hub = get_hub()
        if not self.max_blocking_time:
            self.tracer = GreenletTracer()
        elif self.hub_only:
            self.tracer = HubSwitchTracer(hub, self.max_blocking_time)
        else:
            self.tracer = MaxSwitchTracer(hub, self.max_blocking_time)
        self._entered = time.perf_counter()
        self.tracer.monitor_current_greenlet_blocking()
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        hub, tracer = self.hub, self.tracer
        self.hub = self.tracer = None
        try:
            blocked = False if t is not None else tracer.did_block_hub(hub)
            report = tracer.did_block_hub_report(hub, blocked[1], {}) if blocked else []
        finally:
            tracer.kill()
        if not blocked:
            return
        message = "To the hub" if self.hub_only else "To any greenlet"
        message += f" in {time.perf_counter() - self._entered:.4f} seconds"
        if self.max_blocking_time:
            message += f" (max allowed {self.max_blocking_time:.4f} seconds)"
        raise _FailedToSwitch("\n".join([message, *report]))


def clear_stack_frames(frame: FrameType | None) -> None:
    """Clear the local variables of *frame* and of its callers, as far as possible: those that run keep theirs."""
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:
            pass
        try:
            # Only of a copy, from CPython 3.13 on not at all.
            frame.f_locals.clear()
        except AttributeError:
            pass
        frame = frame.f_back
