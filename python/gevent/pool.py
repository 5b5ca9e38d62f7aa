"""Groups of greenlets, and pools: groups with a bound.

A `Group` forgets a greenlet when it ends; it can be joined and killed as a whole, and maps functions over iterables.
A `Pool` is a group that holds at most *size* greenlets: `Pool.spawn` waits for a free place.
"""
from collections.abc import Callable, Iterable, Iterator
from queue import Full
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from gevent._greenrust import (
    DummySemaphore,
    Event,
    Greenlet,
    GreenletExit,
    Semaphore,
    SimpleQueue,
    getcurrent,
    sleep,
)
from gevent.greenlet import joinall, raise_error_of
from gevent.hub import kill as _kill
from gevent.timeout import Timeout

__all__ = ["Group", "Pool", "PoolFull"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class _Raised:
    """A result that is to be raised by whoever takes it."""

    __slots__ = ("exception", "traceback")

    def __init__(self, exception: BaseException, traceback: Any = None) -> None:
        self.exception = exception
        self.traceback = traceback


class IMapUnordered(Greenlet[..., Any]):
    """The iterator of `imap_unordered`: a greenlet that spawns the tasks, and yields results as they come."""

    def __init__(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]], spawn: Callable[..., Any],
                 maxsize: int | None = None) -> None:
        super().__init__()
        self._function: Any = function
        self._items: Any = items
        self._spawn_task: Any = spawn
        #: The results that the reader has not taken yet.
        self.queue: Any = SimpleQueue()
        # Bounds the results that wait for the reader. Counting at the start of a task keeps the memory of a result
        # that cannot be delivered yet from being made at all.
        self._room = Semaphore(maxsize) if maxsize else None
        self._unfinished = 0
        self._finished = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._room is not None:
            self._room.release()
        result = self._next_result()
        if type(result) is _Raised:
            raise result.exception.with_traceback(result.traceback)
        return result

    next = __next__

    def _next_result(self) -> Any:
        return self.queue.get()

    def _link(self, task: Any, index: int) -> None:
        task.rawlink(self._on_result)

    def _end(self, result: _Raised, index: int) -> None:
        self.queue.put(result)

    def _run(self) -> None:
        count = 0
        function, spawn, room = self._function, self._spawn_task, self._room
        try:
            for item in self._items:
                if room is not None:
                    room.acquire()
                self._unfinished += 1
                self._link(spawn(function, *item), count)
                count += 1
        except BaseException as error:
            self._finish(error, count)
            raise
        else:
            self._count = count
            self._finished_spawning = True
            if not self._unfinished:
                self._finish(None, count)
        finally:
            self._function = self._items = self._spawn_task = None

    _count = 0
    _finished_spawning = False

    @staticmethod
    def _result_of(task: Any) -> Any:
        if task.successful():
            return task.value
        exc_info = getattr(task, "exc_info", None)
        return _Raised(task.exception, exc_info[2] if exc_info else None)

    def _on_result(self, task: Any) -> None:
        # Runs in the hub.
        self._deliver(self._result_of(task), -1)

    def _deliver(self, result: Any, index: int) -> None:
        self._unfinished -= 1
        self.queue.put(result if index < 0 else (index, result))
        if self._finished_spawning and self._unfinished <= 0:
            self._finish(None, self._count)

    def _finish(self, error: BaseException | None, index: int) -> None:
        if self._finished:
            return
        self._finished = True
        if error is None:
            self._end(_Raised(StopIteration()), index)
        else:
            self._end(_Raised(error, error.__traceback__), index)


class IMap(IMapUnordered):
    """The iterator of `imap`: keeps results that come early until it is their turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._early: dict[int, Any] = {}
        self._next_index = 0

    def _next_result(self) -> Any:
        wanted, early = self._next_index, self._early
        while wanted not in early:
            index, result = self.queue.get()
            early[index] = result
        self._next_index = wanted + 1
        return early.pop(wanted)

    def _link(self, task: Any, index: int) -> None:
        task.rawlink(lambda task: self._deliver(self._result_of(task), index))

    def _end(self, result: _Raised, index: int) -> None:
        self.queue.put((index, result))


class GroupMappingMixin:
    """The mapping methods of groups, pools and thread pools, over a `spawn` that the class supplies."""

    __slots__ = ()

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run *func* concurrently; returns an object with `get` and `rawlink`."""
        raise NotImplementedError

    def _apply_immediately(self) -> bool:
        """Return True when `apply` is to call the function in the calling greenlet."""
        raise NotImplementedError

    def _apply_async_use_greenlet(self) -> bool:
        """Return True when `spawn` would block now."""
        raise NotImplementedError

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        """Call *callback* with *result*."""
        raise NotImplementedError

    def apply_cb(self, func: Callable[..., T], args: Any = None, kwds: Any = None,
                 callback: Callable[[T], Any] | None = None) -> T:
        """Like `apply`, and calls *callback* with the result if there is one. Switches."""
        result = self.apply(func, args, kwds)
        if callback is not None:
            self._apply_async_cb_spawn(callback, result)
        return result

    def apply_async(self, func: Callable[..., T], args: Any = None, kwds: Any = None,
                    callback: Callable[[T], Any] | None = None) -> Greenlet[..., T]:
        """Start ``func(*args, **kwds)`` and return its greenlet without waiting, even when the pool is full.

        *callback* is called with the result, unless the call failed. The greenlet need not belong to the group.
        """
        args = () if args is None else args
        kwds = {} if kwds is None else kwds
        if self._apply_async_use_greenlet():
            return Greenlet.spawn(self.apply_cb, func, args, kwds, callback)
        task = self.spawn(func, *args, **kwds)
        if callback is not None:
            task.link(pass_value(callback))
        return task

    def apply(self, func: Callable[..., T], args: Any = None, kwds: Any = None) -> T:
        """Return ``func(*args, **kwds)``, run concurrently with other greenlets; raises what it raises. Switches.

        Called from a member of the group, calls *func* at once.
        """
        args = () if args is None else args
        kwds = {} if kwds is None else kwds
        if self._apply_immediately():
            return func(*args, **kwds)
        return self.spawn(func, *args, **kwds).get()

    def _map(self, func: Callable[[S], T], iterable: Iterable[S]) -> list[T]:
        spawn = self.spawn
        return [task.get() for task in [spawn(func, item) for item in iterable]]

    def map(self, func: Callable[[S], T], iterable: Iterable[S]) -> list[T]:
        """Return the list of the results of *func* for each item, in the order of the items. Switches.

        Raises the error of the first item that failed.
        """
        return Greenlet.spawn(self._map, func, iterable).get()

    def map_cb(self, func: Callable[[S], T], iterable: Iterable[S],
               callback: Callable[[list[T]], Any] | None = None) -> list[T]:
        """Like `map`, and calls *callback* with the list. Switches."""
        result = self.map(func, iterable)
        if callback is not None:
            callback(result)
        return result

    def map_async(self, func: Callable[[S], T], iterable: Iterable[S],
                  callback: Callable[[list[T]], Any] | None = None) -> Greenlet[..., list[T]]:
        """Return a greenlet whose value will be what `map` returns."""
        return Greenlet.spawn(self.map_cb, func, iterable, callback)

    def imap(self, func: Callable[..., T], *iterables: Iterable[Any], maxsize: int | None = None) -> Iterator[T]:
        """Return an iterator of the results of *func* over *iterables*, in order; it runs ahead of the reader.

        With *maxsize*, tasks wait while that many results have not been read.
        """
        return IMap.spawn(func, zip(*iterables, strict=False), self.spawn, maxsize)

    def imap_unordered(self, func: Callable[..., T], *iterables: Iterable[Any],
                       maxsize: int | None = None) -> Iterator[T]:
        """Like `imap`, but yields each result as soon as it is there. Cheaper than `imap`."""
        return IMapUnordered.spawn(func, zip(*iterables, strict=False), self.spawn, maxsize)


class Group(GroupMappingMixin):
    """The greenlets that are still running of those that were added; without a bound."""

    #: What `spawn` makes; change it in a subclass or an instance.
    greenlet_class: Any = Greenlet

    def __init__(self, *args: Iterable[Any]) -> None:
        if len(args) > 1:
            raise AssertionError(args)
        self.greenlets: set[Any] = set(*args)
        for greenlet in self.greenlets:
            greenlet.rawlink(self._discard)
        # What was killed already, so that a second kill does not raise again in a greenlet that is cleaning up.
        self.dying: set[Any] = set()
        self._empty_event = Event()
        self._empty_event.set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self.greenlets}>"

    def __len__(self) -> int:
        return len(self.greenlets)

    def __contains__(self, item: Any) -> bool:
        return item in self.greenlets

    def __iter__(self) -> Iterator[Any]:
        return iter(self.greenlets)

    def add(self, greenlet: Any) -> None:
        """Track *greenlet* until it ends; best before it was started."""
        rawlink = getattr(greenlet, "rawlink", None)
        if rawlink is not None:
            rawlink(self._discard)
        self.greenlets.add(greenlet)
        self._empty_event.clear()

    def _discard(self, greenlet: Any) -> None:
        self.greenlets.discard(greenlet)
        self.dying.discard(greenlet)
        if not self.greenlets:
            self._empty_event.set()

    def discard(self, greenlet: Any) -> None:
        """Stop tracking *greenlet*."""
        self._discard(greenlet)
        unlink = getattr(greenlet, "unlink", None)
        if unlink is not None:
            unlink(self._discard)

    def start(self, greenlet: Any) -> None:
        """Add the unstarted *greenlet* and start it."""
        self.add(greenlet)
        greenlet.start()

    if TYPE_CHECKING:
        # What `greenlet_class` takes, if it is left as it is.
        def spawn(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Greenlet[P, T]: ...
    else:
        def spawn(self, *args, **kwargs):
            """Make a `greenlet_class` of the arguments, add and start it; returns it."""
            greenlet = self.greenlet_class(*args, **kwargs)
            self.start(greenlet)
            return greenlet

    def join(self, timeout: float | None = None, raise_error: bool = False) -> bool:
        """Wait until the group was empty once, for at most *timeout* seconds. Switches.

        With *raise_error*, raises the error of a member that failed. Returns True when the group was empty.
        """
        members = list(self.greenlets) if raise_error else ()
        empty = self._empty_event.wait(timeout=timeout)
        for greenlet in members:
            if greenlet.exception is not None:
                raise_error_of(greenlet)
        return empty

    def kill(self, exception: Any = GreenletExit, block: bool = True, timeout: float | None = None) -> None:
        """Raise *exception* in all members; with *block*, wait until they are dead or *timeout* seconds are over."""
        timer = Timeout.start_new(timeout)
        try:
            while self.greenlets:
                for greenlet in list(self.greenlets):
                    if greenlet in self.dying:
                        continue
                    self.dying.add(greenlet)
                    own_kill = getattr(greenlet, "kill", None)
                    if own_kill is None:
                        _kill(greenlet, exception)
                    else:
                        own_kill(exception, block=False)
                if not block:
                    break
                joinall(list(self.greenlets))
                if self.greenlets:
                    # They have ended, but their links, which take them out of the group, were not called yet.
                    sleep(0)
        except Timeout as expired:
            if expired is not timer:
                raise
        finally:
            timer.cancel()

    def killone(self, greenlet: Any, exception: Any = GreenletExit, block: bool = True,
                timeout: float | None = None) -> None:
        """Kill *greenlet* if it is a member and not being killed already."""
        if greenlet in self.greenlets and greenlet not in self.dying:
            self.dying.add(greenlet)
            greenlet.kill(exception, block=False)
            if block:
                greenlet.join(timeout)

    def full(self) -> bool:
        """Return False: a group has no bound."""
        return False

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until a greenlet can be spawned: returns at once, since a group has no bound."""

    def _apply_immediately(self) -> bool:
        return getcurrent() in self

    def _apply_async_cb_spawn(self, callback: Callable[[Any], Any], result: Any) -> None:
        Greenlet.spawn(callback, result)

    def _apply_async_use_greenlet(self) -> bool:
        return self.full()


class PoolFull(Full):
    """The pool had no free place, and the call was not to wait (any longer)."""


class Pool(Group):
    """A group of at most *size* greenlets; None means no bound, 0 that nothing can ever be spawned.

    Raises ValueError when *size* is negative.
    """

    def __init__(self, size: int | None = None, greenlet_class: Any = None) -> None:
        if size is not None and size < 0:
            raise ValueError(f"size must not be negative: {size!r}")
        super().__init__()
        self.size = size
        if greenlet_class is not None:
            self.greenlet_class = greenlet_class
        self._semaphore: Any = DummySemaphore() if size is None else Semaphore(size)

    def wait_available(self, timeout: float | None = None) -> Any:
        """Wait until there is a free place, for at most *timeout* seconds; returns their number. Switches."""
        return self._semaphore.wait(timeout=timeout)

    def full(self) -> bool:
        """Return True when `spawn` would wait."""
        return self.free_count() <= 0

    def free_count(self) -> int:
        """Return the number of free places, about; 1 when there is no bound."""
        return 1 if self.size is None else max(0, self.size - len(self))

    def start(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Add the unstarted *greenlet* as `add` does, and start it. Switches."""
        self.add(greenlet, blocking, timeout)
        greenlet.start()

    def add(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        """Track *greenlet*, waiting for a free place if *blocking*, for at most *timeout* seconds. Switches.

        Raises PoolFull when there is none.
        """
        if not self._semaphore.acquire(blocking=blocking, timeout=timeout):
            raise PoolFull
        try:
            super().add(greenlet)
        except BaseException:
            self._semaphore.release()
            raise

    def _discard(self, greenlet: Any) -> None:
        super()._discard(greenlet)
        self._semaphore.release()


class pass_value:
    """A link callback that hands on the value of a greenlet that ended well; equal to the callback that it wraps."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback

    def __call__(self, source: Any) -> None:
        if source.successful():
            self.callback(source.value)

    def __hash__(self) -> int:
        return hash(self.callback)

    def __eq__(self, other: object) -> bool:
        return self.callback == getattr(other, "callback", other)

    def __repr__(self) -> str:
        return repr(self.callback)

    def __getattr__(self, name: str) -> Any:
        if name == "callback":
            raise AttributeError(name)
        return getattr(self.callback, name)
