"""The event loop of asyncio that waits in the hub."""
import asyncio
import concurrent.futures
import errno
import os
import signal
import sys
import warnings
from asyncio import base_subprocess, events, unix_events
from collections.abc import Callable
from inspect import iscoroutine, iscoroutinefunction
from typing import Any, TypeVar

from gevent import socket as _socket
from gevent._greenrust import Greenlet, LoopWait, get_hub, set_accompanied, set_companions
from gevent.aio._future import ended, settle, to_greenlet
from gevent.monkey.api import get_original
from gevent.selectors import _NativeSelector
from gevent.threadpool import ThreadPool

__all__ = ["EventLoop", "EventLoopPolicy", "new_event_loop"]

T = TypeVar("T")

_get_running_loop = events._get_running_loop
_set_running_loop = events._set_running_loop
# The thread's number; that of `threading` is the greenlet's when it is patched.
_get_ident = get_original("_thread", "get_ident")


# -- what a greenlet that runs a loop puts aside while it is parked ---------------------------------------------------

# From 3.14 on the current task is the thread's; before, each loop has its own.
_TASK_IS_THE_THREADS = sys.version_info >= (3, 14)


def _put_aside() -> Any:
    hooks = sys.get_asyncgen_hooks()
    loop = _get_running_loop()
    task = None
    if loop is not None:
        if _TASK_IS_THE_THREADS:
            task = asyncio.tasks._swap_current_task(loop, None)
        _set_running_loop(None)
    sys.set_asyncgen_hooks(None, None)
    return loop, task, hooks


def _take_up(aside: Any) -> None:
    loop, task, hooks = aside
    sys.set_asyncgen_hooks(*hooks)
    _set_running_loop(loop)
    if task is not None:
        asyncio.tasks._swap_current_task(loop, task)


set_companions(_put_aside, _take_up)


# -- the loop ---------------------------------------------------------------------------------------------------------

class _HubSelector(_NativeSelector):
    """The system's selector, whose own descriptor the hub waits for."""

    def __init__(self, wait: LoopWait) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            # Others take their turn, if there are any.
            self._wait.wait(-1, 0)
            return ready
        self._wait.wait(self.fileno(), timeout)
        return super().select(0)


class _SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio's transport to a child, which is one of the standard library's also when `subprocess` is patched."""

    def _start(self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = get_original("subprocess", "Popen")(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, universal_newlines=False, bufsize=bufsize,
            **kwargs)


class EventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop that waits in the hub of its thread: while it has nothing to do, other greenlets run.

    It is asyncio's SelectorEventLoop, with the same transports, and usable wherever a loop factory is asked for, as in
    `asyncio.Runner(loop_factory=gevent.aio.EventLoop)`. `run_forever` and `run_until_complete` switch, and raise what
    is thrown into their greenlet meanwhile (`kill()`, `Timeout`): the loop can then be run anew.

    Differences: other greenlets of its thread may call its methods, too; the threads of `run_in_executor` are real
    ones, and names are resolved by gevent's resolver, also when modules are patched. Callbacks and coroutines that call
    a blocking function of gevent hold up this loop, but no other greenlet.
    """

    def __init__(self) -> None:
        self._wait = LoopWait()
        self._calls: set[Greenlet[..., Any]] = set()
        self._threads: ThreadPool | None = None
        self._native_thread = 0
        super().__init__(_HubSelector(self._wait))

    def run_forever(self) -> None:
        """Run until `stop` is called. Switches."""
        self._check_closed()
        if _get_running_loop() is None and not self.is_running():
            self._wait.begin()
            self._native_thread = _get_ident()
            before = set_accompanied(True)
            try:
                super().run_forever()
            finally:
                set_accompanied(before)
                self._wait.end()
        else:
            super().run_forever()    # raises

    def stop(self) -> None:
        """Have `run_forever` return after what is ready has run. Does not switch."""
        super().stop()
        self._wait.wake()

    def _call_soon(self, callback: Any, args: Any, context: Any) -> Any:
        handle = super()._call_soon(callback, args, context)
        if handle._source_traceback:
            del handle._source_traceback[-1]
        # It may be another greenlet of the thread that calls.
        self._wait.wake()
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Call *callback* at the time *when*, in seconds of `time()`. Returns a handle that can be cancelled."""
        timer = super().call_at(when, callback, *args, context=context)
        if timer._source_traceback:
            del timer._source_traceback[-1]
        self._wait.wake()
        return timer

    def _check_thread(self) -> None:
        # For `debug`: `threading.get_ident` tells greenlets apart when it is patched, and all of this thread may call.
        if self._thread_id is not None and _get_ident() != self._native_thread:
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    def _write_to_self(self) -> None:
        # A wait is ended by the hub; a loop that does not wait yet looks at its pipe when it does.
        if not self._wait.wake():
            super()._write_to_self()

    # -- calls in threads, and names --

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Any:
        """Call ``func(*args)`` in a thread and return its future. *executor* None stands for real threads of the hub.

        Does not switch. Calls beyond the number of threads wait for their turn.
        """
        if executor is not None or self._default_executor is not None:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        self._check_default_executor()
        if self._threads is None:
            self._threads = ThreadPool(min(32, (os.cpu_count() or 1) + 4))
        future = self.create_future()
        call = Greenlet(self._call_in_thread, self._threads, future, func, args)
        self._calls.add(call)
        call.rawlink(self._calls.discard)
        call.start()
        return future

    def _call_in_thread(self, threads: ThreadPool, future: Any, func: Any, args: Any) -> None:
        def call() -> Any:
            # The thread must not see an exception that is none of the pool's, so that it is reported once.
            if future.cancelled():
                return None, None
            try:
                return func(*args), None
            except concurrent.futures.CancelledError as error:
                # asyncio's is another class.
                return None, asyncio.CancelledError(*error.args)
            except BaseException as error:
                return None, error

        value, error = threads.spawn(call).get()
        if not self.is_closed():
            self._call_soon(settle, (future, value, error), None)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Accept no more calls for the default executor, and wait until those that run have ended.

        After *timeout* seconds (None: no limit) there is a warning instead.
        """
        if self._default_executor is not None:
            await (super().shutdown_default_executor(timeout) if sys.version_info >= (3, 12)
                   else super().shutdown_default_executor())
            return
        self._executor_shutdown_called = True
        if self._threads is None:
            return
        calls = [ended(call) for call in self._calls]
        if calls and (await asyncio.wait(calls, timeout=timeout))[1]:
            warnings.warn(f"The executor did not finish its calls within {timeout} seconds.", RuntimeWarning,
                          stacklevel=2)

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0,
                          flags: int = 0) -> Any:
        """As `socket.getaddrinfo`, by gevent's resolver."""
        return await to_greenlet(_socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        """As `socket.getnameinfo`, by gevent's resolver."""
        return await to_greenlet(_socket.getnameinfo, sockaddr, flags)

    # -- signals and child processes --

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call ``callback(*args)`` in the loop when the signal *sig* arrives. In the main thread only.

        Raises ValueError for a number that is no signal, RuntimeError for one that can't be caught and elsewhere.
        """
        if iscoroutine(callback) or iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # The hub has Python's handlers run after each poll: no descriptor has to tell the loop of the signal.
            signal.signal(sig, self._signal_arrived)
            signal.siginterrupt(sig, False)
        except ValueError as error:
            raise RuntimeError(str(error)) from None
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        self._signal_handlers[sig] = events.Handle(callback, args, self, None)

    def _signal_arrived(self, sig: int, frame: Any) -> None:
        self._handle_signal(sig)

    def remove_signal_handler(self, sig: int) -> bool:
        """Undo `add_signal_handler`. Returns whether there was a handler."""
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        return True

    async def _make_subprocess_transport(self, protocol: Any, args: Any, shell: bool, stdin: Any, stdout: Any,
                                         stderr: Any, bufsize: int, extra: Any = None, **kwargs: Any) -> Any:
        waiter = self.create_future()
        transport = _SubprocessTransport(self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter,
                                         extra=extra, **kwargs)
        child = get_hub().loop.child(transport.get_pid())
        child.start(self._child_ended, child, transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _child_ended(self, child: Any, transport: Any) -> None:
        # Runs in the hub.
        child.stop()
        child.close()
        if not self.is_closed():
            # The pipes' last data comes first.
            self._call_soon(self.call_soon, (transport._process_exited, os.waitstatus_to_exitcode(child.rstatus)), None)

    def close(self) -> None:
        """Close the loop, which must not run. Does not switch."""
        if not self.is_closed():
            super().close()
            threads, self._threads = self._threads, None
            if threads is not None:
                # That waits for calls which still run.
                Greenlet.spawn(threads.kill)


def new_event_loop() -> EventLoop:
    """Return a new `EventLoop`."""
    return EventLoop()


# asyncio.DefaultEventLoopPolicy itself warns from 3.14 on, where policies are deprecated.
_DefaultPolicy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events.DefaultEventLoopPolicy


class EventLoopPolicy(_DefaultPolicy):
    """asyncio's default policy with `EventLoop` as its loop, for `asyncio.set_event_loop_policy`."""

    _loop_factory = EventLoop
