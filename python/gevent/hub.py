"""The hub: the greenlet of a thread that runs its event loop, and the calls that deal with it directly.

The native `Hub` switches and parks; the class here adds what is policy: how errors are reported, what ends the
program, the thread pool and the resolver. `waiting for several objects` (`wait`, `iwait`) is here as well, since it
needs nothing but `rawlink`.
"""
import heapq
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from gevent import _greenrust
from gevent._config import config
from gevent._greenrust import (
    Greenlet,
    GreenletExit,
    Waiter,
    error,
    get_hub,
    get_hub_class,  # noqa: F401 (gevent's own name for it)
    get_hub_if_exists,
    getcurrent,
    greenlet,
    set_default_hub_class,
    set_hub,
    sleep,
    spawn_raw,
)
from gevent.exceptions import BlockingSwitchOutError, HubDestroyed, LoopExit

__all__ = [
    "getcurrent",
    "GreenletExit",
    "spawn_raw",
    "sleep",
    "kill",
    "signal",
    "reinit",
    "get_hub",
    "Hub",
    "Waiter",
]

T = TypeVar("T")

_get_hub = get_hub_if_exists

# The main thread is the one that `threading` takes for it, also when another thread imports gevent first.
MAIN_THREAD_IDENT = threading.main_thread().ident


def idle(priority: int = 0) -> None:
    """Wait until the event loop has nothing else to do at the same or a higher *priority*. Switches."""
    hub = get_hub()
    watcher = hub.loop.idle()
    try:
        if priority:
            watcher.priority = priority
        hub.wait(watcher)
    finally:
        watcher.stop()
        watcher.close()


def kill(greenlet: greenlet, exception: Any = GreenletExit) -> None:
    """Make *greenlet* raise *exception* (a class or an instance) soon; works for raw greenlets. Does not switch."""
    if greenlet.dead:
        return
    own_kill = getattr(greenlet, "kill", None)
    if own_kill is not None:
        own_kill(exception=exception, block=False)
    else:
        get_hub().loop.run_callback(greenlet.throw, exception)


class signal:
    """Call a function in a new greenlet each time the process receives a signal.

    `signal(signalnum, handler, *args, **kwargs)` calls *handler* with *args* and *kwargs* until `cancel`. It does not
    keep the event loop alive (set `ref` to True for that). Raises TypeError when *handler* cannot be called. Also
    available as `gevent.signal_handler`.
    """

    #: The class of the greenlets that handlers run in.
    greenlet_class: Any = Greenlet

    def __init__(self, signalnum: int, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if not callable(handler):
            raise TypeError("signal handler must be callable.")
        self.hub: Any = get_hub()
        self.watcher: Any = self.hub.loop.signal(signalnum, ref=False)
        self.handler: Any = handler
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.watcher.start(self._start)

    @property
    def ref(self) -> bool:
        """True when waiting for the signal keeps the event loop alive."""
        return self.watcher.ref

    @ref.setter
    def ref(self, value: bool) -> None:
        self.watcher.ref = value

    def cancel(self) -> None:
        """Stop calling the handler, and drop it and its arguments. Does not switch."""
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()
        self.handler = self.args = self.kwargs = self.hub = None

    def _start(self) -> None:
        # Runs in the hub; the handler must be free to block.
        try:
            self.greenlet_class(self.handle).switch()
        except BaseException:
            self.hub.handle_error(None, *sys.exc_info())

    def handle(self) -> None:
        """Call the handler; what it raises is handed to the hub."""
        hub = self.hub
        try:
            self.handler(*self.args, **self.kwargs)
        except BaseException:
            hub.handle_error(None, *sys.exc_info())


def reinit(hub: "Hub | None" = None) -> None:
    """Make the hub of this thread usable in a process that was just forked.

    `gevent.os.fork` and a patched `os.fork` do it by themselves. Without a hub it does nothing.
    """
    if hub is None:
        hub = get_hub_if_exists()
    if hub is None:
        return
    hub.loop.reinit()
    for part in (hub._threadpool, hub._resolver, hub.periodic_monitoring_thread):
        on_fork = getattr(part, "_on_fork", None)
        if on_fork is not None:
            on_fork()


class _IdentRegistry:
    """Gives small numbers to objects, the lowest free first, for as long as each object lives."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._idents: dict[weakref.ref[Any], int] = {}

    def get_ident(self, obj: Any) -> int:
        """Return the number of *obj*, giving it one if it has none."""
        ident = self._idents.get(weakref.ref(obj))
        if ident is None:
            ident = heapq.heappop(self._free) if self._free else len(self._idents)
            self._idents[weakref.ref(obj, self._release)] = ident
        return ident

    def _release(self, reference: "weakref.ref[Any]") -> None:
        heapq.heappush(self._free, self._idents.pop(reference))

    def __len__(self) -> int:
        return len(self._idents)


_hub_idents = _IdentRegistry()


def _write_traceback(stream: Any, t: Any, v: Any, tb: TracebackType | None) -> None:
    try:
        traceback.print_exception(t, v, tb, file=stream)
    except OSError:
        # `traceback` and `linecache` import what they need only then, which takes a descriptor that there may not be.
        stream.write("Traceback (most recent call last):\n")
        for frame, line in traceback.walk_tb(tb):
            code = frame.f_code
            stream.write(f'  File "{code.co_filename}", line {line}, in {code.co_name}\n')
        stream.write(f"{t.__name__}: {v}\n")


class Hub(_greenrust.Hub):
    """The greenlet that runs a thread's event loop; `get_hub` makes it when it is first needed.

    To change how errors are treated, override `handle_error`, or `print_exception`.
    """

    #: Raised in a greenlet, these go on to the main greenlet, where they usually end the program.
    SYSTEM_ERROR: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit, SystemError)
    #: Raised in a greenlet, these are no errors and are not reported.
    NOT_ERROR: tuple[type[BaseException], ...] = (GreenletExit, SystemExit)
    #: Threads in the thread pool; change it before the pool is first used.
    threadpool_size = 10
    #: Shown in the repr, to tell hubs apart.
    name = ""
    #: The monitoring thread, if one runs.
    periodic_monitoring_thread: Any = None

    def __init__(self, loop: Any = None, default: bool | None = None) -> None:
        if not hasattr(loop, "run"):
            # What the settings name is refused if there is no such thing, though there is only one loop.
            self.loop_class(flags=self.backend if loop is None else loop)
        elif default is not None:
            raise TypeError("Unexpected argument: default")
        super().__init__()
        self._resolver: Any = None
        self._threadpool: Any = None
        self._ident_registry: _IdentRegistry | None = None
        self._destroyed = False
        self._format_context: Callable[[Any], str] | None = None
        #: A small number that no other living hub has.
        self.minimal_ident = _hub_idents.get_ident(self)
        spawner = getcurrent()
        self.spawning_greenlet = weakref.ref(spawner)
        self.spawn_tree_locals: dict[str, Any] = {}

    @property
    def format_context(self) -> Callable[[Any], str]:
        """Makes a string of the context of an error that is reported; at first, what the setting of that name says.

        Looked up when it is first read: a hub is often made while a program waits for the first time, when an import
        would be in the way of signals.
        """
        if self._format_context is None:
            try:
                self._format_context = config.format_context
            except OSError:
                # Nothing can be imported without a descriptor; the next report tries again.
                return repr
        return self._format_context

    @format_context.setter
    def format_context(self, value: Callable[[Any], str]) -> None:
        self._format_context = value

    @property
    def ident_registry(self) -> Any:
        """The source of `Greenlet.minimal_ident`."""
        if self._ident_registry is None:
            self._ident_registry = _IdentRegistry()
        return self._ident_registry

    @property
    def loop_class(self) -> Any:
        """The class of `loop`."""
        return config.loop

    @property
    def backend(self) -> Any:
        """The setting `libev_backend`."""
        return config.libev_backend

    @property
    def main_hub(self) -> bool:
        """True when this is the hub of the main thread."""
        return self.thread_ident == MAIN_THREAD_IDENT

    def __repr__(self) -> str:
        state = "destroyed" if self._destroyed else self.loop._format()
        parts = [f"<{type(self).__name__} {self.name!r} at {id(self):#x} {state}"]
        if self._resolver is not None:
            parts.append(f"resolver={self._resolver!r}")
        if self._threadpool is not None:
            parts.append(f"threadpool={self._threadpool!r}")
        parts.append(f"thread_ident={self.thread_ident:#x}>")
        return " ".join(parts)

    # -- errors ---------------------------------------------------------------------------------------------

    def switch_out(self) -> None:
        """Raise BlockingSwitchOutError: called when something that blocks is used in the hub."""
        raise BlockingSwitchOutError("Impossible to call blocking function in the event loop callback")

    def cancel_waits_close_and_then(self, watchers: Iterable[Any], exc_kind: Any, then: Callable[..., Any],
                                    *then_args: Any) -> None:
        """Soon, in the hub: end the waits for *watchers* with the error *exc_kind*, close them, call *then*.

        Does not switch.
        """
        for watcher in watchers:
            self.cancel_wait(watcher, exc_kind, True)
        self.loop.run_callback(then, *then_args)

    def handle_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        """Report an error that nobody caught.

        *context* is the greenlet or the callback that failed, or None. Prints it unless its type is in `NOT_ERROR`;
        passes it to `handle_system_error` when *context* is None or the type is in `SYSTEM_ERROR`.
        """
        if type is HubDestroyed or isinstance(value, HubDestroyed):
            raise value if isinstance(value, BaseException) else HubDestroyed(True)
        type, value, tb = self._normalize_exception(type, value, tb)
        if not issubclass(type, self.NOT_ERROR):
            self.print_exception(context, type, value, tb)
        if context is None or issubclass(type, self.SYSTEM_ERROR):
            self.handle_system_error(type, value, tb)

    def _normalize_exception(self, type: Any, value: Any, tb: Any) -> tuple[Any, Any, Any]:
        # For subclasses: before them, the value may have been the text, and its traceback its own.
        if isinstance(value, str):
            value = type(value)
        if tb is None and isinstance(value, BaseException):
            tb = value.__traceback__
        return type, value, tb

    def handle_system_error(self, type: Any, value: Any, tb: Any = None) -> None:
        """Raise an error in the main greenlet. Switches to it."""
        current = getcurrent()
        if current is self or current is self.parent or self._destroyed:
            self.parent.throw(type, value, tb)
            return
        # The main greenlet may survive the error, and then this greenlet must go on as well.
        callback = self.loop.run_callback(current.switch)
        try:
            self.parent.throw(type, value, tb)
        finally:
            callback.stop()

    @property
    def exception_stream(self) -> Any:
        """The stream that errors are printed to: `sys.stderr` unless assigned; None turns printing off."""
        try:
            return self.__dict__["exception_stream"]
        except KeyError:
            pass
        # At the end of the interpreter `sys` may already be gone.
        stream = sys.stderr if sys is not None else None
        # A stream that writes by way of the thread pool would have to wait, which the hub cannot.
        return stream.io if type(stream).__name__ == "FileObjectThread" else stream

    @exception_stream.setter
    def exception_stream(self, stream: Any) -> None:
        self.__dict__["exception_stream"] = stream

    @exception_stream.deleter
    def exception_stream(self) -> None:
        try:
            del self.__dict__["exception_stream"]
        except KeyError:
            raise AttributeError("exception_stream") from None

    def print_exception(self, context: Any, t: Any, v: Any, tb: Any) -> None:
        """Print an error with its traceback, the time (UTC) and *context* to `exception_stream`."""
        stream = self.exception_stream
        if not stream:
            return
        if v is None:
            stream.write(f"{t.__name__}\n")
        else:
            _write_traceback(stream, t, v, tb)
        stream.write(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        if context is None:
            stream.write("\n")
            return
        if not isinstance(context, str):
            try:
                context = self.format_context(context)
            except Exception as error:
                _write_traceback(stream, type(error), error, error.__traceback__)
                context = object.__repr__(context)
        stream.write(f" {context} failed with {getattr(t, '__name__', 'exception')}\n\n")

    # -- running --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the event loop. Called when the hub is first switched to; not to be called by programs.

        When nothing is left that could wake anyone, raises LoopExit in the main greenlet.
        """
        assert self is getcurrent(), "Do not call Hub.run() directly"
        self.start_periodic_monitoring_thread()
        while True:
            try:
                self.run_loop()
            except HubDestroyed:
                return
            # The hub must not end here: whoever switched to it would get control with a value it cannot expect.
            # After LoopExit the main greenlet may go on and wait again, and then the loop runs anew.
            self.parent.throw(
                LoopExit("This operation would block forever", self, self.describe_waiters().splitlines())
            )

    def start_periodic_monitoring_thread(self) -> Any:
        """Start the thread that watches this hub for blocking, if `gevent.config.monitor_thread` says so.

        Returns it, an `IPeriodicMonitorThread`, or None. Called by the hub itself when it begins to run.
        """
        if self.periodic_monitoring_thread is None and config.monitor_thread:
            from gevent._monitor import start

            start(self)
        return self.periodic_monitoring_thread

    def join(self, timeout: float | None = None) -> bool:
        """Run the event loop until nothing is left to run, or for *timeout* seconds. Switches.

        Returns True when nothing is left, False when the time was over. Only from the main greenlet.
        """
        assert getcurrent() is self.parent, "only possible from the MAIN greenlet"
        if self.dead:
            return True
        waiter: Waiter = Waiter(self)
        timer = None
        if timeout is not None:
            timer = self.loop.timer(timeout, ref=False)
            timer.start(waiter.switch, None)
        awaits_threads, self.awaits_threads = self.awaits_threads, False
        try:
            waiter.get()
        except LoopExit:
            return True
        finally:
            self.awaits_threads = awaits_threads
            if timer is not None:
                timer.stop()
                timer.close()
        return False

    def destroy(self, destroy_loop: bool | None = None) -> None:
        """End the hub and free its thread pool, its resolver, and with *destroy_loop* its event loop.

        Call it in a thread of your own that used gevent, when the thread is done. *destroy_loop*: None destroys all but
        the main thread's loop. One that is not destroyed is the loop of the thread's next hub. The hub's own `loop` is
        None afterwards.
        """
        if self._destroyed:
            return
        if self.periodic_monitoring_thread is not None:
            self.periodic_monitoring_thread.kill()
            self.periodic_monitoring_thread = None
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
        if self._threadpool is not None:
            self._threadpool.kill()
            self._threadpool = None
        loop = self.loop
        if destroy_loop is None:
            destroy_loop = not loop.default
        try:
            self.throw(HubDestroyed(destroy_loop))
        except (LoopExit, error):
            # LoopExit: the loop had nothing left. error: the hub belongs to another thread, which has ended.
            pass
        self._destroyed = True
        if destroy_loop:
            loop.destroy()
        self.forget_loop(not destroy_loop)
        if get_hub_if_exists() is self:
            set_hub(None)

    # -- parts made when first used -------------------------------------------------------------------------

    @property
    def resolver_class(self) -> Any:
        """The class of `resolver`: the setting `resolver`."""
        return config.resolver

    @property
    def resolver(self) -> Any:
        """The object that looks up host names for the functions of `gevent.socket`."""
        if self._resolver is None:
            self._resolver = self.resolver_class(hub=self)
        return self._resolver

    @resolver.setter
    def resolver(self, value: Any) -> None:
        self._resolver = value

    @resolver.deleter
    def resolver(self) -> None:
        self._resolver = None

    @property
    def threadpool_class(self) -> Any:
        """The class of `threadpool`: the setting `threadpool`."""
        return config.threadpool

    @property
    def threadpool(self) -> Any:
        """The threads to which calls that block in the system can be given."""
        if self._threadpool is None:
            self._threadpool = self.threadpool_class(
                self.threadpool_size, hub=self, idle_task_timeout=config.threadpool_idle_task_timeout
            )
        return self._threadpool

    @threadpool.setter
    def threadpool(self, value: Any) -> None:
        self._threadpool = value

    @threadpool.deleter
    def threadpool(self) -> None:
        self._threadpool = None


set_default_hub_class(Hub)


class _ReadyIterator:
    """Yields objects in the order in which they become ready; what `iwait` returns."""

    def __init__(self, objects: Any, hub: Hub, timeout: float | None, count: int | None) -> None:
        self._objects = objects
        self._hub = hub
        self._timeout = timeout
        self._left = len(objects) if count is None else min(count, len(objects))
        self._ready: deque[Any] = deque()
        self._waiter: Waiter = Waiter(hub)
        self._waiting = False
        self._timer: Any = None
        self._begun = False

    def _on_ready(self, obj: Any) -> None:
        self._ready.append(obj)
        if self._waiting:
            self._waiting = False
            self._waiter.switch(None)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        for obj in self._objects:
            obj.rawlink(self._on_ready)
        if self._timeout is not None:
            self._timer = self._hub.loop.timer(self._timeout, priority=-1)
            self._timer.start(self._on_ready, self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._begin()
        if self._left == 0:
            self._cleanup()
            raise StopIteration
        self._left -= 1
        try:
            while not self._ready:
                self._waiting = True
                try:
                    self._waiter.get()
                finally:
                    self._waiting = False
                    self._waiter.clear()
            item = self._ready.popleft()
        except BaseException:
            self._cleanup()
            raise
        if item is self:
            self._cleanup()
            self._left = 0
            raise StopIteration
        return item

    next = __next__

    def _cleanup(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()
        objects, self._objects = self._objects, ()
        for obj in objects:
            unlink = getattr(obj, "unlink", None)
            if unlink is not None:
                unlink(self._on_ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._cleanup()


def iwait(objects: Iterable[T] | None = None, timeout: float | None = None,
          count: int | None = None) -> Iterable[T]:
    """Yield *objects* as they become ready, until *count* (or all) were yielded or *timeout* seconds are over.

    The objects have `rawlink` (greenlets, events, semaphores, processes...). The iterator is a context manager that
    stops waiting when it is left early. Each step switches.
    """
    hub = get_hub()
    if objects is None:
        return [hub.join(timeout=timeout)]
    return _ReadyIterator(objects, hub, timeout, count)


@overload
def wait(objects: None = None, timeout: float | None = None, count: int | None = None) -> bool: ...
@overload
def wait(objects: Iterable[T], timeout: float | None = None, count: int | None = None) -> list[T]: ...
def wait(objects: Iterable[Any] | None = None, timeout: float | None = None, count: int | None = None) -> Any:
    """Wait until *objects* (or *count* of them) are ready, for at most *timeout* seconds. Switches.

    Returns the list of the ready ones in the order in which they became ready. Without *objects*, waits until the
    event loop has nothing left to run, and returns what `Hub.join` returns.
    """
    if objects is None:
        return get_hub().join(timeout=timeout)
    return list(iwait(objects, timeout, count))
