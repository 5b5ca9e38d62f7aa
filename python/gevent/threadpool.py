"""A pool of threads for calls that block in the system, waited for by greenlets."""
import concurrent.futures
import sys
import threading
from collections.abc import Callable
from typing import Any

from gevent import _greenrust
from gevent._greenrust import get_hub_if_exists, greenlet
from gevent.monkey._state import is_module_patched
from gevent.pool import GroupMappingMixin

__all__ = ["ThreadPool", "ThreadPoolExecutor", "ThreadResult"]


class _TaskQueue:
    """The tasks of a pool that no thread has taken yet: to be counted only."""

    def __init__(self, pool: "ThreadPool") -> None:
        self._pool = pool

    @property
    def unfinished_tasks(self) -> int:
        """How many tasks have not ended, those that run included."""
        return len(self._pool)

    def qsize(self) -> int:
        """Return how many tasks wait for a thread."""
        return self._pool._waiting()

    __len__ = qsize

    def empty(self) -> bool:
        """Return True when no task waits for a thread."""
        return not self.qsize()

    def full(self) -> bool:
        """Return False: the pool limits the number of tasks, not the queue."""
        return False


class ThreadPool(_greenrust.ThreadPool, GroupMappingMixin):
    """Up to *maxsize* threads; `spawn` returns an AsyncResult. A greenlet that waits for a result switches."""

    #: In gevent, the greenlet that starts and ends threads while that has to wait. Here nothing has to.
    manager = None
    _fork_watcher: Any = None

    @property
    def task_queue(self) -> _TaskQueue:
        """The tasks that wait for a thread."""
        return _TaskQueue(self)

    @property
    def fork_watcher(self) -> Any:
        """The loop's watcher by which the pool learns that it is in the child of a fork; made when first asked for.

        The pool also finds out by itself. The watcher keeps the pool alive until `kill`.
        """
        if self._fork_watcher is None:
            assert self.hub is not None
            self._fork_watcher = self.hub.loop.fork(ref=False)
            self._fork_watcher.start(self._on_fork)
        return self._fork_watcher

    def _on_fork(self) -> None:
        # Whatever looks at a pool in the child of a fork has it forget the parent's threads first.
        len(self)

    def kill(self) -> None:
        """Wait until all tasks are finished and all threads have ended. Switches if it waits."""
        super().kill()
        if self._fork_watcher is not None:
            self._fork_watcher.stop()
            self._fork_watcher.close()

    def _work(self) -> None:
        # The life of a worker thread. The hooks of `threading` are looked up for each task: they may change between.
        try:
            while (task := self._take()) is not None:
                self._run_task(task)
                del task
                # A hub that the task has made stays the thread's.
                hub = get_hub_if_exists()
                if hub is not None:
                    hub.name = "ThreadPool Worker Hub"
        except BaseException:
            self._lose_worker()
            raise

    def _run_task(self, task: Any) -> None:
        function, args, kwargs = task.call
        threading = sys.modules.get("threading")
        profile, trace = (threading._profile_hook, threading._trace_hook) if threading is not None else (None, None)
        try:
            try:
                if profile is not None:
                    sys.setprofile(profile)
                if trace is not None:
                    sys.settrace(trace)
                value = function(*args, **kwargs) if kwargs else function(*args)
            finally:
                if profile is not None:
                    sys.setprofile(None)
                if trace is not None:
                    sys.settrace(None)
        except BaseException as error:
            self._fail(task, error, (self, function))
        else:
            self._finish(task, value)

    def __repr__(self) -> str:
        # The hub's own repr shows its pool.
        hub = self.hub
        return (
            f"<{type(self).__name__} at {id(self):#x} tasks={len(self)} size={self.size} maxsize={self.maxsize}"
            f" hub=<{type(hub).__name__} at {id(hub):#x} thread_ident={getattr(hub, 'thread_ident', 0):#x}>>"
        )

    def _apply_immediately(self) -> bool:
        # In a thread of the pool there is nobody to wait for a result cooperatively.
        return get_hub_if_exists() is not self.hub

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        callback(result)

    def _apply_async_use_greenlet(self) -> bool:
        # `spawn` waits when all threads are busy.
        return True


class ThreadResult:
    """Hands one outcome from any thread to *receiver*, which is called in *hub*.

    There, *call_when_ready* is called first, without arguments, then *receiver* with this object: `value`, `exception`
    and `exc_info` then say what the outcome is; `value` is forgotten afterwards.
    """

    __slots__ = ("__weakref__", "_call_when_ready", "async_watcher", "context", "exc_info", "hub", "receiver", "value")

    def __init__(self, receiver: Any, hub: Any, call_when_ready: Callable[[], Any]) -> None:
        self.receiver = receiver
        self.hub = hub
        self.context: Any = None
        self.value: Any = None
        self.exc_info: Any = ()
        self._call_when_ready: Any = call_when_ready
        self.async_watcher: Any = hub.loop.async_()
        self.async_watcher.start(self._on_async)

    @property
    def exception(self) -> BaseException | None:
        """What was raised, or None."""
        return self.exc_info[1] if self.exc_info else None

    def successful(self) -> bool:
        """Return True when nothing was raised."""
        return self.exception is None

    def set(self, value: Any) -> None:
        """Hand over *value*. From any thread; does not switch."""
        self.value = value
        self.async_watcher.send()

    def handle_error(self, context: Any, exc_info: Any) -> None:
        """Hand over an error; the hub also reports it, with *context*. From any thread; does not switch."""
        self.context = context
        self.exc_info = exc_info
        self.async_watcher.send()

    def destroy_in_main_thread(self) -> None:
        """Give it up without an outcome. Only in the hub's thread."""
        self.async_watcher.stop()
        self.async_watcher.close()
        self.async_watcher = self._call_when_ready = self.receiver = self.hub = None

    def _on_async(self) -> None:
        hub, receiver, call_when_ready = self.hub, self.receiver, self._call_when_ready
        self.async_watcher.stop()
        self.async_watcher.close()
        try:
            if self.exc_info:
                hub.handle_error(self.context, *self.exc_info)
            self.context = self.async_watcher = self.hub = self._call_when_ready = None
            # The receiver's frames must not stay alive by a traceback.
            self.exc_info = (*self.exc_info[:2], None) if self.exc_info else ()
            call_when_ready()
            if receiver is not None:
                receiver(self)
        finally:
            self.value = None


class _BlockingCondition(threading.Condition):
    """The condition of a future while `threading` is not patched: held only for moments, and not to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        # `concurrent.futures.wait` and `as_completed` call it; a future's own methods enter the condition instead.
        self._acquire_lock = self.acquire
        self.acquire = self._acquire_of_settled
        self.is_settled = False

    def _acquire_of_settled(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_settled:
            return self._acquire_lock(*args, **kwargs)
        raise AttributeError(
            "a function of concurrent.futures would block the thread whose hub is to tell it of this future; patch "
            "threading (gevent.monkey.patch_all), or use gevent.wait"
        )


class _Future(concurrent.futures.Future):
    """The future of a task in a thread pool; waiting for it switches. Also works with `gevent.wait`.

    `concurrent.futures.wait` and `as_completed` work when `threading` is patched, else they raise AttributeError.
    """

    def __init__(self, outcome: Any) -> None:
        super().__init__()
        if not is_module_patched("threading"):
            self._condition = _BlockingCondition()
        self._outcome: Any = outcome
        self._links: dict[Any, Any] = {}
        self.set_running_or_notify_cancel()
        outcome.rawlink(self._on_outcome)

    def _on_outcome(self, outcome: Any) -> None:
        # Runs in the hub; the callbacks of a future may block, but are to begin before those who wait go on.
        greenlet(self._settle).switch()

    def _settle(self) -> None:
        if isinstance(self._condition, _BlockingCondition):
            self._condition.is_settled = True
        if not super().done():
            if self._outcome.successful():
                self.set_result(self._outcome.value)
            else:
                self.set_exception(self._outcome.exception)

    def _wait(self, timeout: float | None) -> None:
        self._outcome.wait(timeout)
        if not self._outcome.ready():
            raise concurrent.futures.TimeoutError

    def done(self) -> bool:
        """Return True when the task has ended."""
        return self._outcome.ready()

    def running(self) -> bool:
        """Return True while the task has not ended."""
        return not self._outcome.ready()

    def cancel(self) -> bool:
        """Return False: a task that was given to the pool is not taken back."""
        return False

    def result(self, timeout: float | None = None) -> Any:
        """Return the task's result or raise its error, waiting for at most *timeout* seconds. Switches."""
        self._wait(timeout)
        return self._outcome.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's error, or None, waiting for at most *timeout* seconds. Switches."""
        self._wait(timeout)
        return self._outcome.exception

    def ready(self) -> bool:
        """Return True when the task has ended."""
        return self._outcome.ready()

    def successful(self) -> bool:
        """Return True when the task has ended without an error."""
        return self._outcome.successful()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the result as `AsyncResult.get` does."""
        return self._outcome.get(block, timeout)

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Call *callback* in the hub with this future when the task has ended."""

        def link(_: Any) -> None:
            self._links.pop(callback, None)
            callback(self)

        self._links[callback] = link
        self._outcome.rawlink(link)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Undo `rawlink`."""
        link = self._links.pop(callback, None)
        if link is not None:
            self._outcome.unlink(link)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """The standard library's executor, over a `ThreadPool`: real threads, also when `threading` is patched."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._threadpool = ThreadPool(self._max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` in a thread; returns its future. May switch when all threads are busy."""
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return _Future(self._threadpool.spawn(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; with *wait*, wait for those that run. Switches then."""
        self._shutdown = True
        if wait:
            self._threadpool.join()
        self.kill(wait=False)

    def kill(self, wait: bool = True, **kwargs: Any) -> None:
        """End the threads; with *wait*, when they have finished."""
        self._shutdown = True
        if wait:
            self._threadpool.join()
        self._threadpool.kill()
