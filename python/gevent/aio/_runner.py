"""Coroutines for greenlets: run, and waited for."""
import asyncio
import contextvars
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable, iscoroutine
from typing import Any, TypeVar

from gevent._greenrust import AsyncResult, CancelScope, get_hub, getcurrent
from gevent.aio._loop import EventLoop
from gevent.monkey.api import get_original

__all__ = ["run", "run_coroutine"]

T = TypeVar("T")


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _coroutine(function: str, main: Any) -> Coroutine[Any, Any, Any]:
    if iscoroutine(main):
        return main
    if isawaitable(main):
        return _await(main)
    raise TypeError(f"{function} takes a coroutine, not {main!r}")


def run(main: Awaitable[T], *, debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run a coroutine in this greenlet, in a loop of its own, and return its result, as `asyncio.run` does. Switches.

    Other greenlets go on meanwhile, and may call `run` themselves. The coroutine runs in a copy of the caller's
    context. *debug* is asyncio's debug mode (None: as the environment says); *loop_factory* makes the loop (default:
    `EventLoop`).

    What is thrown into the greenlet while it waits (`kill()`, `Timeout`, a cancelled scope) cancels the coroutine and
    all tasks of the loop, and is raised here when they have ended; a second kill waits, too. SIGINT does so as well in
    the main greenlet, where KeyboardInterrupt is raised. Errors of tasks during that end are given to the loop's
    exception handler.

    Raises RuntimeError in code that an asyncio loop runs already: await there. Raises TypeError for what can't be
    awaited.
    """
    if asyncio._get_running_loop() is not None:
        if iscoroutine(main):
            main.close()
        raise RuntimeError("gevent.aio.run() cannot be called from a running event loop: await the coroutine")
    coroutine = _coroutine("gevent.aio.run()", main)
    loop = (loop_factory or EventLoop)()
    try:
        if debug is not None:
            loop.set_debug(debug)
        context = contextvars.copy_context()
        task = context.run(loop.create_task, coroutine)
        with _Interruptible(loop, task) as interruptible:
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                if interruptible.arrived and task.uncancel() == 0:
                    raise KeyboardInterrupt from None
                raise
    finally:
        _end(loop)


class _Interruptible:
    """While it lasts, the first SIGINT cancels a task, if SIGINT is Python's own and this is the main greenlet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self.arrived = 0
        self._loop = loop
        self._task = task
        self._is_set = False

    def __enter__(self) -> "_Interruptible":
        if (get_original("_thread", "get_ident")() == threading.main_thread().ident and getcurrent().parent is None
                and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
            try:
                signal.signal(signal.SIGINT, self._on_signal)
                self._is_set = True
            except ValueError:    # a sub-interpreter
                pass
        return self

    def _on_signal(self, number: int, frame: Any) -> None:
        self.arrived += 1
        if self.arrived > 1 or self._task.done():
            raise KeyboardInterrupt
        self._task.cancel()
        # The loop may be about to wait.
        self._loop.call_soon_threadsafe(lambda: None)

    def __exit__(self, *error: object) -> None:
        if self._is_set and signal.getsignal(signal.SIGINT) == self._on_signal:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what a loop has left, wait for it, and close the loop."""
    try:
        # What is thrown in meanwhile waits, so that no cleanup ends halfway.
        with CancelScope(shield=True):
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(_gather(left))
            for task in left:
                if not task.cancelled() and task.exception() is not None:
                    loop.call_exception_handler({
                        "message": "unhandled exception during gevent.aio.run() shutdown",
                        "exception": task.exception(),
                        "task": task,
                    })
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


async def _gather(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def run_coroutine(main: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    """Run a coroutine in *loop*, which another greenlet or thread runs, and return its result. Switches.

    It is what `asyncio.run_coroutine_threadsafe(coroutine, loop).result()` does, with a wait that lets other greenlets
    run. What is thrown into the greenlet meanwhile cancels the coroutine, and is raised when that has ended. The
    coroutine runs in a copy of the caller's context. A coroutine that is cancelled by others raises CancelledError.

    Raises RuntimeError in the code that *loop* itself runs, and when the loop is closed.
    """
    if asyncio._get_running_loop() is loop:
        if iscoroutine(main):
            main.close()
        raise RuntimeError("gevent.aio.run_coroutine() would wait for the loop that calls it: await the coroutine")
    coroutine = _coroutine("gevent.aio.run_coroutine()", main)
    outcome: AsyncResult[T] = AsyncResult()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        try:
            task = loop.create_task(coroutine)
        except BaseException as error:
            outcome.set_exception(error)
            raise
        tasks.append(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            outcome.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set(task.result())

    def cancel() -> None:
        tasks[0].cancel()

    # A loop of another thread can wake us though nothing of this hub's can.
    alive = get_hub().loop.async_()
    alive.start(int)
    try:
        loop.call_soon_threadsafe(start, context=contextvars.copy_context())
    except RuntimeError:
        alive.close()
        coroutine.close()
        raise
    try:
        outcome.wait()
    except BaseException:
        loop.call_soon_threadsafe(cancel)
        with CancelScope(shield=True):
            outcome.wait()
        raise
    finally:
        alive.close()
    return outcome.get()
