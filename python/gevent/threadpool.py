"""A pool of threads for calls that block in the system, waited for by greenlets."""
import concurrent.futures
import sys
from collections.abc import Callable
from typing import Any

from gevent import _greenrust
from gevent._greenrust import get_hub_if_exists, spawn_raw
from gevent.pool import GroupMappingMixin

__all__ = ["ThreadPool", "ThreadPoolExecutor"]


class ThreadPool(_greenrust.ThreadPool, GroupMappingMixin):
    """Up to *maxsize* threads; `spawn` returns an AsyncResult. A greenlet that waits for a result switches."""

    def _work(self) -> None:
        # The life of a worker thread. The hooks of `threading` are looked up for each task: they may change between.
        try:
            while (task := self._take()) is not None:
                self._run_task(task)
                del task
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
        return (
            f"<{type(self).__name__} at {id(self):#x} tasks={len(self)} size={self.size} maxsize={self.maxsize}"
            f" hub={self.hub!r}>"
        )

    def _apply_immediately(self) -> bool:
        # In a thread of the pool there is nobody to wait for a result cooperatively.
        return get_hub_if_exists() is not self.hub

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        callback(result)

    def _apply_async_use_greenlet(self) -> bool:
        # `spawn` waits when all threads are busy.
        return True


class _Future(concurrent.futures.Future):
    """The future of a task in a thread pool; waiting for it switches. Also works with `gevent.wait`."""

    def __init__(self, outcome: Any) -> None:
        super().__init__()
        self._outcome: Any = outcome
        self._links: dict[Any, Any] = {}
        self.set_running_or_notify_cancel()
        outcome.rawlink(self._on_outcome)

    def _on_outcome(self, outcome: Any) -> None:
        # Runs in the hub; the callbacks of a future may block.
        spawn_raw(self._settle)

    def _settle(self) -> None:
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
        if not args and not kwargs:
            raise TypeError("ThreadPoolExecutor() needs max_workers")
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
