"""Locks in the child of a fork: which of them still have an owner there.

The standard library takes all threads but the forking one for gone in the child, and gives their locks new life. The
greenlets of the forking thread go on there, however, and so do the locks that they hold. What greenlets of other
threads hold has no owner any more, and neither has what a greenlet holds that `leave_alone` has left behind.
"""
import importlib._bootstrap as _bootstrap
import sys as _sys
from collections.abc import Callable, Set
from typing import Any

from gevent._greenrust import getcurrent
from gevent._greenrust import leave_behind as _leave_behind
from gevent.thread import _greenlets, _root_of, get_ident

__all__ = ["forget_imports_of_others", "keep_locks_of_greenlets", "leave_alone"]

# Locks that a handler of the fork was to make free, and whose owners go on.
_kept: list[Callable[[], None]] = []


def _idents_here() -> Set[int]:
    """Return what `get_ident` gives for the greenlets of this thread."""
    here = _root_of(getcurrent())
    return {get_ident(one) for one in _greenlets() if not one.dead and _root_of(one) is here}


def keep_locks_of_greenlets(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what is to be `threading._RLock._at_fork_reinit` instead of *original*.

    It leaves a lock alone that another greenlet of this thread holds, as that is going to release it.
    """

    def _at_fork_reinit(self: Any) -> None:
        owner = self._owner
        if owner is None or owner == get_ident() or owner not in _idents_here():
            original(self)
        else:
            _kept.append(lambda: original(self))

    return _at_fork_reinit


def forget_imports_of_others(idents: Set[int] | None = None) -> None:
    """Let the child import what a thread was importing that is gone: from the beginning, as nobody will finish it.

    *idents* are those whose imports go on; by default the greenlets of this thread.
    """
    references = list(_bootstrap._module_locks.items())  # type: ignore[attr-defined]
    locks = {name: lock for name, reference in references
             if (lock := reference()) is not None and lock.owner not in (None, get_ident())}
    if not locks:
        return
    if idents is None:
        idents = _idents_here()
    for name, lock in locks.items():
        if lock.owner in idents:
            continue
        _bootstrap._module_locks.pop(name, None)  # type: ignore[attr-defined]
        spec = getattr(_sys.modules.get(name), "__spec__", None)
        if getattr(spec, "_initializing", False):
            del _sys.modules[name]


def leave_alone() -> None:
    """In the child of a fork: leave all other greenlets behind, as the other threads are, and free what they hold."""
    current = getcurrent()
    _leave_behind([one for one in _greenlets() if one is not current])
    for release in _kept:
        release()
    _kept.clear()
    forget_imports_of_others({get_ident()})
