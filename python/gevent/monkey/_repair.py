"""Repairs what other modules took from a module before it was patched.

A module that was imported earlier may hold the originals: `from time import sleep`, a lock made at import. Here such
references in the globals of modules are exchanged, and classes that were derived from one that was replaced get its
replacement for their base. Where the layout of objects forbids that, it is told.
"""
import _thread
import gc
import importlib._bootstrap as _bootstrap
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from gevent.monkey import _state

#: (module, name) of each reference that was exchanged.
repaired: list[tuple[str, str]] = []
#: The names of the classes that derive from something else since.
rebased: list[str] = []

# Modules that need the originals: ours, and those below the threads that Python itself uses.
_KEEP = ("gevent", "greenlet", "_frozen_importlib", "_thread", "_socket", "_posixsubprocess", "importlib._bootstrap")

_NATIVE_LOCKS: tuple[type, ...] = (_thread.LockType, _thread.RLock)

# Code of the standard library holds a lock, or asks for the thread, only between two switches: it may keep native
# ones. `threading` is patched by itself.
_ONLY_PROGRAMS = ("_thread", "threading")


# What of it holds a lock of its globals while others run.
_WAITING_MODULES = ("logging", "concurrent.futures")


def is_stdlib(module_name: str) -> bool:
    """Say whether a module is of the standard library."""
    return module_name.partition(".")[0] in sys.stdlib_module_names and module_name != "__main__"


def _other_modules(target_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if name == target_name or name.startswith(_KEEP) or type(module) is not types.ModuleType:
            continue
        if is_stdlib(name) and (
            target_name in _ONLY_PROGRAMS or name in sys.builtin_module_names or name.startswith("_")
        ):
            # Private and built-in modules are where the originals come from.
            continue
        yield name, module.__dict__


def exchange_references(target_name: str, exchanges: dict[int, tuple[Any, Any]]) -> None:
    """Exchange in the globals of all modules but *target_name* each original for its replacement.

    *exchanges* maps the id of an original to the pair of original and replacement.
    """
    for module_name, names in _other_modules(target_name):
        for name, value in list(names.items()):
            pair = exchanges.get(id(value))
            if pair is not None and pair[0] is value and not name.startswith("__"):
                if is_stdlib(module_name):
                    # Such a module may be patched itself later, and is to remember the original.
                    _state.save(module_name, name, value)
                names[name] = pair[1]
                repaired.append((module_name, name))


def keepers(kept: tuple[str, ...]) -> tuple[Callable[[str], bool], Callable[[type], bool]]:
    """Return two functions: whether the native objects of a module stay, by its name, and those of a class's instances.

    Those of the modules in *kept* stay, and of those that threads are built on.
    """

    def keeps_module(name: str) -> bool:
        if name.startswith(_KEEP) or name in kept:
            return True
        return is_stdlib(name) and not name.startswith(_WAITING_MODULES)

    def keeps_type(kind: type) -> bool:
        name = kind.__module__ or ""
        return name.startswith(_KEEP) or name in kept or kind.__name__ == "_ModuleLock"

    return keeps_module, keeps_type


def renew_poll_selectors(original: Callable[[], Any], replacement: Callable[[], Any]) -> None:
    """Have the selectors that exist and ask by `select.poll`, as those of running servers do, wait as greenlets.

    A native thread that waits by one goes on with the new poll object after its present wait, and runs its greenlets.
    """
    selectors = sys.modules.get("selectors")
    kind = getattr(selectors, "_PollLikeSelector", None)
    if kind is None:
        return
    native = type(original())
    for selector in gc.get_objects():
        if not issubclass(type(selector), kind) or type(getattr(selector, "_selector", None)) is not native:
            continue
        renewed = replacement()
        for key in list((selector.get_map() or {}).values()):
            # The selector's own words for its events: 1 to read, 2 to write.
            mask = (key.events & 1 and selector._EVENT_READ) | (key.events & 2 and selector._EVENT_WRITE)
            renewed.register(key.fd, mask)
        selector._selector = renewed


def renew_executors(make_queue: Callable[[], Any]) -> None:
    """Have the executors that exist go on with threads that are greenlets.

    Their native threads finish what they were given, and wait on the former queue until the interpreter ends them.
    """
    futures = sys.modules.get("concurrent.futures.thread")
    if futures is None:
        return
    for executor in gc.get_objects():
        if not issubclass(type(executor), futures.ThreadPoolExecutor) or not getattr(executor, "_threads", None):
            continue
        if any(is_native_thread(thread) for thread in executor._threads):
            executor._work_queue = make_queue()
            executor._threads = set()
            executor._idle_semaphore = _IdleSemaphore(0)
            if executor._shutdown:
                executor._work_queue.put(None)


def is_native_thread(thread: Any) -> bool:
    """Say whether a thread is one that ran before patching."""
    return "join" in thread.__dict__


class _IdleSemaphore(threading.Semaphore):
    """How many of an executor's greenlets are idle: a former native thread does not count."""

    def release(self, n: int = 1) -> None:
        if not is_native_thread(threading.current_thread()):
            super().release(n)


def derive_anew(kind: type, original: type, replacement: type) -> bool:
    """Have the class *kind* derive from *replacement* where it does from *original*; returns whether that can be."""
    try:
        kind.__bases__ = tuple(replacement if base is original else base for base in kind.__bases__)
    except TypeError:
        # The objects of the two are laid out differently, or there is no order of the bases.
        return False
    rebased.append(f"{kind.__module__}.{kind.__qualname__}")
    return True


def may_stay(original: Any) -> bool:
    """Say whether *original* is a class of queues that need not be replaced, and had better not be.

    Those of the standard library are written in Python and wait by the locks of `threading`, which are patched. A class
    that a program has derived from one may call it by name, and cannot derive from ours.
    """
    if getattr(original, "__module__", None) != "queue" or not isinstance(original, type):
        return False
    names = vars(sys.modules["queue"]).values()
    family = [kind for kind in names if isinstance(kind, type) and kind.__module__ == "queue"]
    return _state.is_module_patched("threading") and any(derived_classes(kind) for kind in family)


def derived_classes(original: type) -> list[type]:
    """Return the classes of programs that derive from *original* directly."""
    found = []
    for child in original.__subclasses__():
        module = child.__module__ or ""
        if module.startswith(_KEEP) or is_stdlib(module):
            continue
        found.append(child)
    return found


def adopt_held_import_locks(former: int, ident: int) -> None:
    """Tell the import locks of *former*, a native thread, that it is *ident* now: they know their owner by `get_ident`.

    Who waits for a module that is being imported does not block the thread that imports it.
    """
    for reference in list(getattr(_bootstrap, "_module_locks", {}).values()):
        lock = reference()
        if lock is None:
            continue
        if getattr(lock, "owner", None) == former:
            lock.owner = ident
        if type(getattr(lock, "wakeup", None)) in _NATIVE_LOCKS and not lock.waiters and not lock.wakeup.locked():
            lock.wakeup = threading.Lock()
