"""Exchanges the native locks, queues and thread-local data that exist when programs are patched for those of greenlets.

A greenlet that waits for a native lock blocks the thread, and with it the greenlet that holds the lock: the program
hangs. A lock is exchanged where everything that refers to it is found: attributes, globals, items of lists and
dictionaries, variables of closures, and bound methods of it in such places, as in `threading.Condition`. The number of
references tells whether something else has it, such as a frame or a thread that waits for it: then it stays, since two
locks would not exclude each other.
"""
import _queue
import _thread
import gc
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any

_LOCK: type = _thread.LockType
_RLOCK: type = _thread.RLock
_QUEUE: type = _queue.SimpleQueue
_METHOD = types.BuiltinMethodType

#: The number of objects that were exchanged, and descriptions of those that stay native although a program has them.
exchanged = 0
left: list[str] = []


class _Place:
    """Where a reference is, and how to change it."""

    __slots__ = ("_assign", "description", "stays")

    def __init__(self, assign: Callable[[Any], Any], description: str, stays: bool) -> None:
        self._assign = assign
        self.description = description
        # Whether what is there has to stay native.
        self.stays = stays

    def put(self, thing: Any) -> None:
        self._assign(thing)


def _put_item(container: Any, key: Any) -> Callable[[Any], Any]:
    return lambda thing: container.__setitem__(key, thing)


def _put_content(cell: Any) -> Callable[[Any], Any]:
    return lambda thing: setattr(cell, "cell_contents", thing)


def _put_slot(descriptor: Any, owner: Any) -> Callable[[Any], Any]:
    return lambda thing: descriptor.__set__(owner, thing)


def _reference_counts(things: list[Any]) -> list[int]:
    return [sys.getrefcount(thing) for thing in things]


def _counts(things: list[Any]) -> list[int]:
    """Return how many references there are to each of *things* but for the list itself."""
    # Versions of the interpreter count their own references differently.
    overhead = _reference_counts([object()])[0]
    return [count - overhead for count in _reference_counts(things)]


class _Search:
    """Finds the places that refer to some objects."""

    def __init__(self, keeps_module: Callable[[str], bool], keeps_type: Callable[[type], bool]) -> None:
        self._keeps_type = keeps_type
        self._modules = {
            id(module.__dict__): (name, keeps_module(name))
            for name, module in list(sys.modules.items())
            if type(module) is types.ModuleType
        }

    def places(self, things: list[Any]) -> dict[int, list[_Place]]:
        """Return for the id of each of *things* where it is referred to."""
        found: dict[int, list[_Place]] = {id(thing): [] for thing in things}
        holders = gc.get_referrers(*things) if things else []
        dictionaries: dict[int, tuple[dict[Any, Any], str, bool]] = {}
        plain: list[dict[Any, Any]] = []
        for holder in holders:
            if holder is things:
                continue
            kind = type(holder)
            if kind is dict:
                plain.append(holder)
            elif kind is list:
                self._note(found, enumerate(holder), holder, "an item of a list", False)
            elif kind is types.CellType:
                if id(holder.cell_contents) in found:
                    found[id(holder.cell_contents)].append(
                        _Place(_put_content(holder), "a variable of a closure", False)
                    )
            elif kind is not _METHOD and kind is not types.FrameType:
                self._note_instance(found, holder, dictionaries)
        self._note_dictionaries(found, plain, dictionaries)
        return found

    def _note(self, found: dict[int, list[_Place]], items: Iterable[tuple[Any, Any]], container: Any, description: str,
              stays: bool) -> None:
        for key, value in list(items):
            if id(value) in found:
                where = f"{description}{key}" if description.endswith(".") else description
                found[id(value)].append(_Place(_put_item(container, key), where, stays))

    def _note_instance(self, found: dict[int, list[_Place]], owner: Any,
                       dictionaries: dict[int, tuple[dict[Any, Any], str, bool]]) -> None:
        kind = type(owner)
        described, stays = f"{kind.__module__}.{kind.__qualname__}.", self._keeps_type(kind)
        try:
            attributes = object.__getattribute__(owner, "__dict__")
        except AttributeError:
            attributes = None
        if type(attributes) is dict:
            dictionaries[id(attributes)] = (attributes, described, stays)
        for base in kind.__mro__:
            for name, descriptor in vars(base).items():
                if type(descriptor) is types.MemberDescriptorType:
                    try:
                        value = descriptor.__get__(owner, kind)
                    except AttributeError:
                        continue
                    if id(value) in found:
                        found[id(value)].append(_Place(_put_slot(descriptor, owner), described + name, stays))

    def _note_dictionaries(self, found: dict[int, list[_Place]], plain: list[dict[Any, Any]],
                           dictionaries: dict[int, tuple[dict[Any, Any], str, bool]]) -> None:
        unknown = [one for one in plain if id(one) not in dictionaries and id(one) not in self._modules]
        if unknown:
            wanted = {id(one) for one in unknown}
            for owner in gc.get_referrers(*unknown):
                try:
                    attributes = object.__getattribute__(owner, "__dict__")
                except AttributeError:
                    continue
                if id(attributes) in wanted:
                    kind = type(owner)
                    described = f"{kind.__module__}.{kind.__qualname__}."
                    dictionaries[id(attributes)] = (attributes, described, self._keeps_type(kind))
        for one in plain:
            if id(one) in dictionaries:
                continue
            if id(one) in self._modules:
                name, stays = self._modules[id(one)]
                dictionaries[id(one)] = (one, name + ".", stays)
            else:
                dictionaries[id(one)] = (one, "an item of a dictionary", False)
        for one, described, stays in dictionaries.values():
            self._note(found, one.items(), one, described, stays)


def _new_lock(lock: Any, make_lock: Callable[[], Any], make_rlock: Callable[[], Any], ident: int) -> Any:
    """Return a lock in the state of *lock*; None if that cannot be had."""
    if type(lock) is _LOCK:
        new = make_lock()
        if lock.locked():
            new.acquire()
        return new
    if lock._is_owned():
        new = make_rlock()
        count, _ = state = lock._release_save()
        lock._acquire_restore(state)
        new._acquire_restore((count, ident))
        return new
    if not lock.acquire(blocking=False):
        # Another thread's.
        return None
    lock.release()
    return make_rlock()


def exchange_locks(make_lock: Callable[[], Any], make_rlock: Callable[[], Any], ident: int,
                   keeps_module: Callable[[str], bool], keeps_type: Callable[[type], bool]) -> None:
    """Exchange native locks for those that *make_lock* and *make_rlock* make.

    An RLock that this thread holds is then that of the greenlet *ident*. What a module holds for which *keeps_module*
    is true of its name, or an instance whose class *keeps_type* is true of, stays.
    """
    # While a native thread waits for a condition, it keeps what it needs of the lock to take it again. Nobody waits for
    # anything while he holds that.
    waited_for = {
        id(one._lock)
        for one in gc.get_objects()
        if type(one) is threading.Condition and getattr(one, "_waiters", None) and hasattr(one, "_lock")
    }
    # The interpreter itself releases what tells the end of a native thread.
    names = ("_tstate_lock", "_gevent_native_lock")
    ends = {id(getattr(thread, name, None)) for thread in threading.enumerate() for name in names}
    _exchange(
        (_LOCK, _RLOCK), lambda lock: _new_lock(lock, make_lock, make_rlock, ident), ends | waited_for,
        _Search(keeps_module, keeps_type),
    )


def exchange_queues(make_queue: Callable[[], Any], keeps_module: Callable[[str], bool],
                    keeps_type: Callable[[type], bool]) -> None:
    """Exchange the native `queue.SimpleQueue` objects, with what is in them, for those that *make_queue* makes."""

    def new_queue(native: Any) -> Any:
        new = make_queue()
        while not native.empty():
            new.put(native.get_nowait())
        return new

    exchange((_QUEUE,), new_queue, keeps_module, keeps_type)


def exchange(kinds: tuple[type, ...], make_new: Callable[[Any], Any], keeps_module: Callable[[str], bool],
             keeps_type: Callable[[type], bool]) -> None:
    """Exchange each object of *kinds* for what *make_new* makes of it, but for what stays, as with `exchange_locks`."""
    _exchange(kinds, make_new, set(), _Search(keeps_module, keeps_type))


def _exchange(kinds: tuple[type, ...], make_new: Callable[[Any], Any], unseen: set[int], search: _Search) -> None:
    """Exchange each object of *kinds*, but for those of *unseen*, for what *make_new* makes of it, if anything."""
    global exchanged
    everything = gc.get_objects()
    things = [one for one in everything if type(one) in kinds]
    methods = [one for one in everything if type(one) is _METHOD and type(one.__self__) in kinds]
    del everything
    places = search.places(things)
    method_places = search.places(methods)
    methods_of: dict[int, list[Any]] = {}
    whole = {}
    for method, count in zip(methods, _counts(methods), strict=True):
        methods_of.setdefault(id(method.__self__), []).append(method)
        whole[id(method)] = count == len(method_places[id(method)])
    method = None
    for index, count in enumerate(_counts(things)):
        one = things[index]
        direct = places[id(one)]
        bound = methods_of.get(id(one), [])
        everywhere = direct + [place for method in bound for place in method_places[id(method)]]
        if not everywhere or id(one) in unseen or any(place.stays for place in everywhere):
            continue
        new = None
        if count == len(direct) + len(bound) and all(whole[id(method)] for method in bound):
            new = make_new(one)
        if new is None or not all(hasattr(new, method.__name__) for method in bound):
            left.extend({place.description for place in everywhere if "." in place.description})
            continue
        for place in direct:
            place.put(new)
        for method in bound:
            for place in method_places[id(method)]:
                place.put(getattr(new, method.__name__))
        exchanged += 1
