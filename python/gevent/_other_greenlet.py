"""PyPI's greenlet in a process where gevent's greenlets have stacks of their own.

It copies pieces of one stack to and fro. In a gevent greenlet it would write the pieces of one stack over another, and
the process would crash, or worse. So it works as long as it is used beside gevent, by a thread's main greenlet, and
otherwise says what to do.
"""
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gevent._greenrust import getcurrent, replace_method

__all__ = ["confine"]


def confine(other: ModuleType) -> None:
    """Let the greenlets of *other*, PyPI's module, be switched by the main greenlets of threads alone."""
    for name in ("switch", "throw"):
        replace_method(other.greenlet, name, _confined(other, name))


def _confined(other: ModuleType, name: str) -> Callable[..., Any]:
    method = getattr(other.greenlet, name)

    def switch(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if getcurrent().parent is not None:
            raise other.error(
                f"a greenlet of {other.__file__} cannot be switched by a gevent greenlet: that module was imported "
                "before gevent, by the program or a library. Import gevent first, and they will use its greenlets."
            )
        return method(self, *args, **kwargs)

    switch.__name__ = name
    switch.__qualname__ = f"greenlet.{name}"
    switch.__doc__ = method.__doc__
    return switch
