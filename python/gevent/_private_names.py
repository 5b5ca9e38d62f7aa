"""Small helpers of gevent's private modules that have no other home here.

They exist for the programs that import them by the names that `gevent._aliases` lists; nothing of ours uses them.
"""
import _queue
import _thread
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gevent import _greenrust
from gevent import socket as _socket
from gevent.fileobject import FileObjectPosix, _checked, _either, _open_blocking

__all__: list[str] = []

_NONE: Any = type("_NONE", (), {"__slots__": (), "__repr__": lambda self: "<default value>"})()

# -- gevent._compat: which Python and which system this is --------------------------------------------------

PY311 = sys.version_info >= (3, 11)
PY312 = sys.version_info >= (3, 12)
PY313 = sys.version_info >= (3, 13)
PY314 = sys.version_info >= (3, 14)
PYPY = WIN = OSX = MAC = False
LINUX = True
# The native parts have no counterpart in Python, so the variables PURE_PYTHON and GEVENT_PURE_PYTHON choose nothing.
PURE_PYTHON = False

string_types = (str,)
integer_types = (int,)
text_type = str
native_path_types = (str, bytes)
hostname_types = (bytearray, bytes, str)
thread_mod_name = "_thread"
iteritems = dict.items
itervalues = dict.values
xrange = range
izip = zip


def reraise(t: Any, value: BaseException, tb: Any = None) -> None:
    """Raise *value* with the traceback *tb*, or with its own."""
    raise value.with_traceback(tb) if tb is not None and value.__traceback__ is not tb else value


def exc_clear() -> None:
    """Do nothing: an exception that was handled is forgotten by itself."""


# -- gevent._util -------------------------------------------------------------------------------------------


class readproperty:
    """A property that calls a function with the instance; an assignment hides it."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self.func = func
        self.__doc__ = func.__doc__

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else self.func(instance)


class Lazy:
    """A property that is computed once for each instance, and then is an attribute of it."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self.data = (func, func.__name__)
        self.__doc__ = func.__doc__

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        func, name = self.data
        value = instance.__dict__[name] = func(instance)
        return value


class LazyOnClass:
    """A property that is computed once, and then is an attribute of the class that defines it."""

    @classmethod
    def lazy(cls, cls_dict: dict[str, Any], func: Callable[[Any], Any]) -> None:
        """Put the property for *func* into the dictionary of a class."""
        cls_dict[func.__name__] = cls(func)

    def __init__(self, func: Callable[[Any], Any], name: str | None = None) -> None:
        self.name = name or func.__name__
        self.func = func

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = self.func(instance)
        for base in owner.mro():
            if base.__dict__.get(self.name) is self:
                setattr(base, self.name, value)
                break
        return value


def copy_globals(source: Any, globs: dict[str, Any], only_names: Sequence[str] | None = None,
                 ignore_missing_names: bool = False, names_to_ignore: Sequence[str] = (),
                 dunder_names_to_keep: Sequence[str] = ("__implements__", "__all__", "__imports__"),
                 cleanup_globs: bool = True) -> list[str]:
    """Copy names of the module *source* (all, or *only_names*) into the dictionary *globs*; returns the names.

    Names that begin with two underscores are left out unless they are *dunder_names_to_keep*. A missing one of
    *only_names* raises AttributeError unless *ignore_missing_names*. *cleanup_globs* takes the import of this function
    out of *globs*.
    """
    copied = []
    for name in only_names if only_names else source.__dict__:
        if name in names_to_ignore or (name.startswith("__") and name not in dunder_names_to_keep):
            continue
        try:
            globs[name] = getattr(source, name)
        except AttributeError:
            if not ignore_missing_names:
                raise
            continue
        copied.append(name)
    if cleanup_globs:
        globs.pop("copy_globals", None)
    return copied


def gmctime() -> str:
    """Return the time (UTC) as RFC 3339 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# -- gevent._hub_local, gevent._hub_primitives, gevent._waiter ----------------------------------------------


def get_hub_noargs() -> Any:
    """Return the hub of this thread, making it if there is none."""
    return _greenrust.get_hub()


def get_loop() -> Any:
    """Return the event loop of this thread's hub, or None without a hub."""
    hub = _greenrust.get_hub_if_exists()
    return None if hub is None else hub.loop


def wait_on_socket(socket: Any, watcher: Any, timeout_exc: Any = None) -> None:
    """Wait for *watcher*, for at most the time-out of *socket*. Switches."""
    _socket.wait(watcher, socket.timeout, timeout_exc or TimeoutError("timed out"))


# -- gevent._socketcommon -----------------------------------------------------------------------------------

stdlib_socket = _socket._stdlib


def resolve_addr(sock: Any, address: Any) -> Any:
    """Return *address*, which *sock* is to use, with the host name looked up by the hub's resolver."""
    return _socket._resolved(sock, sock.family, address)


# -- gevent._greenlet_primitives ----------------------------------------------------------------------------


def get_memory(data: Any) -> memoryview:
    """Return a view of *data*, which also may have a buffer that is not contiguous bytes."""
    view = memoryview(data)
    return view.cast("B") if view.contiguous else memoryview(view.tobytes())


# -- gevent._threading: for native threads, whatever is patched ---------------------------------------------


class EmptyTimeout(Exception):
    """The time was over before something came."""


def acquire_with_timeout(lock: Any, timeout: float = -1) -> bool:
    """Acquire the native *lock* within *timeout* seconds; -1 waits without limit."""
    return lock.acquire(timeout=timeout)


class Queue:
    """A queue between native threads; it blocks the thread."""

    def __init__(self) -> None:
        self._queue = _queue.SimpleQueue()

    def qsize(self) -> int:
        """Return the number of items."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """Tell whether there is no item."""
        return self._queue.empty()

    def full(self) -> bool:
        """Return False: there is no limit."""
        return False

    def put(self, item: Any) -> None:
        """Append *item*."""
        self._queue.put(item)

    def allocate_cookie(self) -> Any:
        """Return what `get` of gevent's queue wants; it is not needed here."""
        return _thread.allocate_lock()

    def get(self, cookie: Any = None, timeout: float = -1) -> Any:
        """Return the next item; raises EmptyTimeout when *timeout* seconds (-1: no limit) are over."""
        try:
            return self._queue.get(True, None if timeout < 0 else timeout)
        except _queue.Empty:
            raise EmptyTimeout from None


# -- gevent._patcher ----------------------------------------------------------------------------------------

#: Which module of gevent stands for which of the standard library.
MAPPING = {
    "gevent." + name: name
    for name in ("socket", "select", "selectors", "ssl", "subprocess", "os", "threading", "builtins", "signal", "time",
                 "queue", "contextvars")
} | {"gevent.local": "_threading_local", "gevent.thread": "_thread"}

# -- gevent._ident ------------------------------------------------------------------------------------------


class ValuedWeakRef(weakref.ref[Any]):
    """A weak reference that carries a value."""

    value: Any = None


# -- gevent._fileobjectcommon -------------------------------------------------------------------------------


class OpenDescriptor:
    """What to open and how, as `open` describes it; `opened` opens it."""

    def __init__(self, fobj: Any, mode: str = "r", bufsize: int | None = None, close: bool | None = None,
                 encoding: str | None = None, errors: str | None = None, newline: str | None = None,
                 buffering: int | None = None, closefd: bool | None = None, atomic_write: bool = False) -> None:
        self.closefd = _either("closefd", closefd, "close", close, True)
        self.buffering = _either("buffering", buffering, "bufsize", bufsize, -1)
        self.mode = _checked(mode, self.buffering, encoding, errors, newline)
        self.fobj, self.encoding, self.errors, self.newline = fobj, encoding, errors, newline

    def is_fd(self) -> bool:
        """Tell whether a descriptor is to be used."""
        return isinstance(self.fobj, int)

    def opened(self) -> Any:
        """Return the opened file of the standard library's `io`."""
        return _open_blocking(
            self.fobj, self.mode, self.buffering, self.encoding, self.errors, self.newline, self.closefd
        )[0]


class GreenOpenDescriptor(OpenDescriptor):
    """What `gevent.fileobject.FileObjectPosix` is made of."""

    def opened(self) -> Any:
        """Return the opened file of the standard library's `io`, on a descriptor that was made non-blocking."""
        return FileObjectPosix(self.fobj, self.mode, self.buffering, None, self.encoding, self.errors, self.newline,
                               closefd=self.closefd).io


# -- gevent.resolver._hostsfile -------------------------------------------------------------------------------


class HostsFile:
    """The names and addresses of a hosts file, read anew by each call."""

    def __init__(self, fname: str | None = None) -> None:
        self.fname = fname or "/etc/hosts"

    def iter_all_host_addr_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield each name with its first IPv4 address, then each with its first IPv6 address.

        Raises OSError when the file cannot be read.
        """
        found: dict[bool, dict[str, str]] = {False: {}, True: {}}
        with open(self.fname, encoding="utf-8", errors="replace") as file:
            for line in file:
                address, *names = line.partition("#")[0].split() or [""]
                for name in names:
                    found[":" in address].setdefault(name.lower(), address)
        for addresses in found.values():
            yield from addresses.items()
