"""Has the thread-local data that exists when programs are patched be that of greenlets.

An object of `threading.local` itself is exchanged where it is found, as locks are. One of a program's class stays:
the class gets a base that adds no field, and keeps what each greenlet has in an object of `gevent.local`.
"""
import _thread
import gc
import weakref
from collections.abc import Callable
from typing import Any

from gevent._greenrust import local
from gevent.monkey import _locks, _repair

Native: type[Any] = _thread._local
_MISSING: Any = object()

#: What greenlets have of each object, by its identity.
_values: dict[int, tuple[Any, Any]] = {}


class _Values(local):
    """What greenlets have of the object that *owner*, a weak reference, leads to."""

    def __init__(self, owner: Any, arguments: Any, keywords: Any, begun: list[Any]) -> None:
        # In the greenlet that makes the object, the interpreter calls its `__init__`; in another one, this does.
        if not begun:
            begun.append(True)
            return
        type(owner()).__init__(owner(), *arguments, **keywords)


def _keep(owner: Any, arguments: Any, keywords: Any) -> dict[str, Any]:
    identity = id(owner)
    reference = weakref.ref(owner, lambda _: _values.pop(identity, None))
    values = _Values(reference, arguments, keywords, [])
    _values[identity] = reference, values
    return values.__dict__


def _dictionary(owner: Any) -> dict[str, Any]:
    """Return the attributes that the current greenlet has of *owner*."""
    return _values[id(owner)][1].__dict__


class EarlyLocal(Native):
    """What classes that were derived from `threading.local` before patching derive from since."""

    __slots__ = ()

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        self = super().__new__(cls, *arguments, **keywords)
        _keep(self, arguments, keywords)
        return self

    def __getattribute__(self, name: str) -> Any:
        values = _dictionary(self)
        if name == "__dict__":
            return values
        kind = type(self)
        found = _of_class(kind, name)
        get = getattr(type(found), "__get__", None)
        if get is not None and hasattr(type(found), "__set__"):
            return get(found, self, kind)
        if name in values:
            return values[name]
        if get is not None:
            return get(found, self, kind)
        if found is _MISSING:
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        descriptor = _of_class(type(self), name)
        if hasattr(type(descriptor), "__set__"):
            type(descriptor).__set__(descriptor, self, value)
        else:
            _dictionary(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        descriptor = _of_class(type(self), name)
        if hasattr(type(descriptor), "__delete__"):
            type(descriptor).__delete__(descriptor, self)
        elif _dictionary(self).pop(name, _MISSING) is _MISSING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


def _of_class(kind: type, name: str) -> Any:
    """Return what the class *kind* has by *name*, as it is stored."""
    for base in kind.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return _MISSING


def _renew(native: Any) -> Any:
    """Return a greenlet-local object with what the current thread has of *native*."""
    new = local()
    new.__dict__.update(native.__dict__)
    return new


def _adopt_class(kind: type) -> None:
    """Have the class *kind* of a program derive from EarlyLocal.

    What this thread has of its objects becomes what this greenlet has.
    """
    existing = [one for one in gc.get_objects() if issubclass(type(one), kind)]
    contents = [dict(Native.__getattribute__(one, "__dict__")) for one in existing]
    if not _repair.derive_anew(kind, Native, EarlyLocal):
        return
    for one, content in zip(existing, contents, strict=True):
        # The interpreter keeps what the object was made with, for the threads to come.
        kept = gc.get_referents(one)
        arguments = next((part for part in kept if type(part) is tuple), ())
        keywords = next((part for part in kept if type(part) is dict and all(type(key) is str for key in part)), {})
        _keep(one, arguments, keywords).update(content)


def adopt_classes() -> None:
    """Have the classes of programs that derive from `threading.local` keep what each greenlet has."""
    for kind in _repair.derived_classes(Native):
        _adopt_class(kind)


def exchange_objects(keeps_module: Callable[[str], bool], keeps_type: Callable[[type], bool]) -> None:
    """Exchange the objects of `threading.local` itself for greenlet-local ones.

    What a module holds for which *keeps_module* is true of its name, or an instance whose class *keeps_type* is true
    of, stays that of threads.
    """
    _locks.exchange((Native,), _renew, keeps_module, keeps_type)
