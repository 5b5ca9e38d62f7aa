"""Greenlets for coroutines: as futures, and awaited."""
import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from gevent._greenrust import Greenlet, GreenletExit

__all__ = ["as_future", "ended", "settle"]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, GreenletExit):
        asyncio.Future.cancel(future)
    elif isinstance(error, StopIteration):
        # A coroutine can't raise it.
        replacement = RuntimeError(f"a greenlet raised {error!r}")
        replacement.__cause__ = error
        future.set_exception(replacement)
    else:
        future.set_exception(error)


class _Outcome(Protocol[T_co]):
    """What `as_future` takes besides greenlets: an AsyncResult, or what has the same methods."""

    def ready(self) -> bool: ...
    @property
    def value(self) -> T_co | None: ...
    @property
    def exception(self) -> Any: ...
    def rawlink(self, callback: Callable[[Any], Any], /) -> None: ...
    def unlink(self, callback: Callable[[Any], Any], /) -> None: ...


class _OutcomeFuture(asyncio.Future[T]):
    """The future of an AsyncResult."""

    def __init__(self, outcome: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._outcome = outcome
        self._gr_loop = loop
        outcome.rawlink(self._ended)
        if outcome.ready():
            # Its hub, which calls links, may be that of a thread that has ended.
            loop.call_soon(self._copy)

    def _ended(self, outcome: Any) -> None:
        # Runs in the hub of the outcome's thread.
        try:
            self._gr_loop.call_soon_threadsafe(self._copy)
        except RuntimeError:    # The loop is closed: nobody waits.
            pass

    def _copy(self) -> None:
        outcome = self._outcome
        error = outcome.exception
        if error is None:
            value = outcome.value
            settle(self, value, value if isinstance(value, GreenletExit) else None)
        else:
            traceback = outcome.exc_info[2]
            settle(self, None, error.with_traceback(traceback) if traceback is not None else error)

    def cancel(self, msg: Any = None) -> bool:
        """Wait no longer; what is waited for goes on."""
        self._outcome.unlink(self._ended)
        return super().cancel(msg)


class _GreenletFuture(_OutcomeFuture[T]):
    """The future of a greenlet, which to cancel kills the greenlet: it is cancelled when the greenlet has ended."""

    def cancel(self, msg: Any = None) -> bool:
        """Kill the greenlet. Returns False if it has ended already. Does not switch."""
        if self.done() or self._outcome.ready():
            return False
        self._outcome.kill(block=False)
        return True


@overload
def as_future(waitable: Greenlet[..., T]) -> asyncio.Future[T]: ...
@overload
def as_future(waitable: _Outcome[T]) -> asyncio.Future[T]: ...
def as_future(waitable: Any) -> asyncio.Future[Any]:
    """Return an asyncio future of a greenlet or an AsyncResult, for the loop that runs. Does not switch.

    It gets their value, or their exception with its traceback. To cancel the future, or the task that awaits it, kills
    the greenlet, as it cancels a task that is awaited: the future is cancelled once the greenlet has ended by that, and
    gets its value if it returns one instead. A greenlet that is killed by others cancels the future, too. An
    AsyncResult is left as it is.

    Greenlets of all threads may be awaited. Raises RuntimeError where no loop runs.
    """
    loop = asyncio.get_running_loop()
    if isinstance(waitable, Greenlet):
        return _GreenletFuture(waitable, loop)
    for name in ("ready", "rawlink", "unlink", "value", "exception"):
        if not hasattr(waitable, name):
            raise TypeError(f"a Greenlet or an AsyncResult is needed, not {waitable!r}")
    return _OutcomeFuture(waitable, loop)


@overload
async def wait(waitable: Greenlet[..., T]) -> T: ...
@overload
async def wait(waitable: _Outcome[T]) -> T: ...
async def wait(waitable: Any) -> Any:
    """Await a greenlet or an AsyncResult: see `as_future`."""
    return await as_future(waitable)


def ended(greenlet: Greenlet[..., Any]) -> asyncio.Future[Any]:
    """Return a future of the end of a greenlet, which lives on if that is cancelled."""
    return _OutcomeFuture(greenlet, asyncio.get_running_loop())


async def to_greenlet(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new greenlet, where it may wait as it likes, and await its result.

    The greenlet runs in a copy of the caller's context. To cancel the call kills the greenlet, and waits for its end.
    It is what `asyncio.to_thread` is to threads.
    """

    def call() -> tuple[Any, BaseException | None]:
        # The caller gets the error: the hub need not report it.
        try:
            return function(*args, **kwargs), None
        except Exception as error:
            return None, error

    greenlet: Greenlet[..., tuple[Any, BaseException | None]] = Greenlet(call)
    greenlet.gr_context = contextvars.copy_context()
    greenlet.start()
    value, error = await as_future(greenlet)
    if error is None:
        return value
    try:
        raise error
    finally:
        # The traceback refers to this frame.
        del error, greenlet
