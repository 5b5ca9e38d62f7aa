"""Task groups: greenlets that end before the block of code that started them does, as asyncio and trio have them."""
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from gevent._greenrust import Cancelled, CancelScope, Event, Greenlet, GreenletExit, get_hub
from gevent.timeout import Timeout

__all__ = ["TaskGroup"]

P = ParamSpec("P")
T = TypeVar("T")

#: What leaves a group as it is, even if an error of a task comes with it.
_OUTER = (GreenletExit, Timeout, KeyboardInterrupt, SystemExit)


class TaskGroup:
    """A block of code whose greenlets all end before it does.

    `with TaskGroup() as group:` lets `group.spawn(function, *args)` start tasks. The block's end waits for them. When
    one fails, the others and the block itself are cancelled (each wait in them raises `Cancelled`); then all errors
    leave the block as one ExceptionGroup, or BaseExceptionGroup. A task that ends by GreenletExit, as by `kill()`, has
    not failed.

    A kill, a Timeout or a cancelled outer scope that reaches the block cancels the tasks, waits until they have ended,
    and goes on as it is. KeyboardInterrupt and SystemExit, the block's or a task's, leave alone, too.

    A group belongs to the greenlet that entered it, and is used once.
    """

    def __init__(self) -> None:
        self._scope = CancelScope()
        self._tasks: set[Greenlet[..., Any]] = set()
        self._failed: list[Greenlet[..., Any]] = []
        self._errors: list[BaseException] = []
        self._all_ended = Event()
        self._state = "has not been entered"
        self._waits = False
        self._catches = False
        self._hub: Any = None

    def __repr__(self) -> str:
        tasks = f" tasks={len(self._tasks)}" if self._tasks else ""
        errors = f" errors={len(self._errors)}" if self._errors else ""
        state = f" ({self._state})" if self._state else ""
        return f"<TaskGroup at {id(self):#x}{tasks}{errors}{state}>"

    @property
    def cancel_scope(self) -> CancelScope:
        """The scope that the block and all tasks are in: to cancel them, or for a deadline or a shield."""
        return self._scope

    def cancel(self) -> None:
        """Cancel the block and all tasks. The group then ends without an error of its own. Does not switch."""
        self._scope.cancel()

    def spawn(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Greenlet[P, T]:
        """Start a task: a greenlet that calls *function*, in a copy of the caller's context. Does not switch.

        Raises RuntimeError when the group has not been entered, has ended, or is cancelled already, or is another
        thread's; TypeError for what can't be called. Any greenlet of the group's thread may call it, tasks of the group
        above all.
        """
        if self._state or self._scope.cancel_called or (self._waits and not self._tasks):
            state = self._state or ("has been cancelled" if self._scope.cancel_called else "has ended")
            raise RuntimeError(f"{self!r} takes no task: it {state}")
        if get_hub() is not self._hub:
            raise RuntimeError(f"{self!r} takes no task from another thread: its greenlets are those of its own")
        task = Greenlet(function, *args, **kwargs)
        task.gr_context = copy_context()
        self._scope._adopt(task)
        self._tasks.add(task)
        self._all_ended.clear()
        task.rawlink(self._task_ended)
        task.start()
        return task

    create_task = spawn

    def __enter__(self) -> Self:
        if self._state != "has not been entered":
            raise RuntimeError(f"{self!r} can't be entered: a TaskGroup is used for one 'with' block only")
        self._scope.__enter__()
        self._hub = get_hub()
        self._state = ""
        return self

    def _task_ended(self, task: Greenlet[..., Any]) -> None:
        # Runs in the hub.
        self._tasks.discard(task)
        if isinstance(task.value, Cancelled):
            self._catches = True
        if task.exception is not None:
            _, error, traceback = task.exc_info
            self._failed.append(task)
            self._errors.append(error.with_traceback(traceback))
            self._scope.cancel()
        if not self._tasks:
            self._all_ended.set()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> bool:
        was_thrown = value is not None and self._scope._was_thrown(value)
        is_own = self._scope._leave()
        outer: BaseException | None = None
        if value is not None:
            if is_own and isinstance(value, Cancelled):
                self._catches = True
            elif was_thrown or isinstance(value, _OUTER):
                outer = value
            else:
                self._errors.append(value)
            self._scope.cancel()
        outer = self._wait(outer)
        self._state = "has ended"
        self._scope._close(self._catches and outer is None)
        try:
            return self._finish(value, outer)
        finally:
            # The errors' frames refer to the group.
            del outer, value, traceback
            self._errors, self._failed = [], []

    def _wait(self, outer: BaseException | None) -> BaseException | None:
        """Wait until all tasks have ended; returns what came from outside first."""
        self._waits = True
        while self._tasks:
            try:
                # What comes when it is clear how the group ends comes to the greenlet behind it.
                with CancelScope(shield=outer is not None or self._scope.shield):
                    self._all_ended.wait()
            except BaseException as error:
                outer = error
                self._scope.cancel()
        return outer

    def _finish(self, value: BaseException | None, outer: BaseException | None) -> bool:
        errors = self._errors
        for error in errors:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise error
        if outer is not None and not (errors and isinstance(outer, Cancelled)):
            for task in self._failed:
                # Nobody else would see these.
                get_hub().handle_error(task, *task.exc_info)
            if outer is value:
                return False
            raise outer
        if errors:
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
        return True
