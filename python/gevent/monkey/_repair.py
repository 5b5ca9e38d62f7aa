"""Repairs what other modules took from a module before it was patched.

A module that was imported earlier may hold the originals: `from time import sleep`, a lock made at import. Here such
references in the globals of modules are exchanged. What cannot be repaired is told: classes derived from a class that
was replaced.
"""
import _thread
import importlib._bootstrap as _bootstrap
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

from gevent.monkey import _state

#: (module, name) of each reference that was exchanged.
repaired: list[tuple[str, str]] = []

# Modules that need the originals: ours, and those below the threads that Python itself uses.
_KEEP = ("gevent", "greenlet", "_frozen_importlib", "_thread", "_socket", "_posixsubprocess", "importlib._bootstrap")
_NATIVE_LOCKS: tuple[type, ...] = (_thread.LockType, _thread.RLock)


# Code of the standard library holds a lock, or asks for the thread, only between two switches: it may keep native
# ones. `threading` is patched by itself.
_ONLY_PROGRAMS = ("_thread", "threading")


def _is_stdlib(module_name: str) -> bool:
    return module_name.partition(".")[0] in sys.stdlib_module_names and module_name != "__main__"


def _other_modules(target_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if name == target_name or name.startswith(_KEEP) or type(module) is not types.ModuleType:
            continue
        if _is_stdlib(name) and (
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
                if _is_stdlib(module_name):
                    # Such a module may be patched itself later, and is to remember the original.
                    _state.save(module_name, name, value)
                names[name] = pair[1]
                repaired.append((module_name, name))


def derived_classes(original: type) -> list[type]:
    """Return the classes of programs that derive from *original*; they do not wait cooperatively."""
    found = []
    for child in original.__subclasses__():
        module = child.__module__ or ""
        if module.startswith(_KEEP) or _is_stdlib(module):
            continue
        found.append(child)
    return found


def exchange_global_locks(make_lock: Any, make_rlock: Any) -> None:
    """Exchange the free native locks in the globals of modules for ones whose waiters are greenlets.

    A lock that is held stays: whoever holds it will release the one it knows.
    """
    for module_name, names in _other_modules("threading"):
        for name, value in list(names.items()):
            if type(value) not in _NATIVE_LOCKS or name.startswith("__"):
                continue
            if not value.acquire(blocking=False):
                continue
            value.release()
            names[name] = make_rlock() if type(value) is _thread.RLock else make_lock()
            repaired.append((module_name, name))


def exchange_logging_locks(logging: Any) -> None:
    """Give `logging` and its handlers locks whose waiters are greenlets."""
    logging._lock = threading.RLock()
    for reference in logging._handlerList:
        handler = reference() if callable(reference) else reference
        if handler is not None and getattr(handler, "lock", None) is not None:
            handler.lock = threading.RLock()


def exchange_waiting_objects(conditions: list[Any]) -> None:
    """Give the free objects of `threading` in *conditions* locks whose waiters are greenlets."""
    locks: dict[int, Any] = {}
    for condition in conditions:
        native = condition._lock
        if type(native) not in _NATIVE_LOCKS or condition._waiters or not native.acquire(blocking=False):
            continue
        native.release()
        # Conditions that shared a lock go on sharing one.
        lock = locks.setdefault(
            id(native), threading.RLock() if type(native) is _thread.RLock else threading.Lock()
        )
        condition.__dict__.clear()
        condition.__init__(lock)


def adopt_held_import_locks(ident: int) -> None:
    """Tell the import locks that this greenlet holds who it is now: they know their owner by `get_ident`."""
    for reference in list(getattr(_bootstrap, "_module_locks", {}).values()):
        lock = reference()
        if lock is not None and getattr(lock, "owner", None) is not None:
            lock.owner = ident
