"""File objects whose reading and writing lets other greenlets run.

`FileObjectPosix` makes the descriptor non-blocking: right for pipes, sockets and terminals. `FileObjectThread` works
in threads of the hub's pool: right for files on disks. `FileObjectBlock` blocks. `FileObject` is the one that the
setting `fileobject` (GEVENT_FILE) chooses. Each wraps a stack of the standard library's `io`, found as `io`.
"""
import errno as _errno
import io as _io
import os as _os
import stat as _stat
from collections.abc import Iterator
from functools import partial as _partial
from types import TracebackType
from typing import Any, Self

from gevent._config import config
from gevent._greenrust import BoundedSemaphore, get_hub
from gevent.os import close as _close_fd
from gevent.os import make_nonblocking, nb_read, nb_write

__all__ = ["FileObject", "FileObjectBlock", "FileObjectPosix", "FileObjectThread"]  # noqa: F822 (see __getattr__)

_DEFAULT_BUFFER_SIZE = 8192
_METHODS = (
    "read",
    "read1",
    "readall",
    "readinto",
    "readline",
    "readlines",
    "write",
    "writelines",
    "flush",
    "seek",
    "tell",
    "truncate",
    "peek",
    "readable",
    "writable",
    "seekable",
    "isatty",
    "fileno",
)


_MISSING: Any = object()


class FileObjectClosed(OSError):
    """Raised by a file object that was closed for everything but `closed`, `name`, `io` and `close`."""

    def __init__(self) -> None:
        super().__init__(_errno.EBADF, _os.strerror(_errno.EBADF) + " (FileObject was closed)")


class _NonBlockingRaw(_io.RawIOBase):
    """Raw input and output on a descriptor: waits by parking the greenlet where the system would block."""

    def __init__(self, fd: int, readable: bool, writable: bool, name: Any, closefd: bool, owner: Any = None,
                 mode: str = "rb") -> None:
        self._fd = fd
        self._readable = readable
        self._writable = writable
        self._closefd = closefd
        # The object that the descriptor belongs to: kept alive, and closed instead of the descriptor.
        self._owner = owner
        self.name = name
        #: As `io.FileIO` tells it, which the buffers ask.
        self.mode = mode
        # Files on disks are always ready and cannot be polled.
        if not _stat.S_ISREG(_os.fstat(fd).st_mode):
            make_nonblocking(fd)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} fileno={self._fd}>"

    def _check(self) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def fileno(self) -> int:
        return self._check()

    def isatty(self) -> bool:
        return _os.isatty(self._check())

    def readable(self) -> bool:
        self._check()
        return self._readable

    def writable(self) -> bool:
        self._check()
        return self._writable

    def seekable(self) -> bool:
        try:
            _os.lseek(self._check(), 0, _os.SEEK_CUR)
        except OSError:
            return False
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return _os.lseek(self._check(), offset, whence)

    def truncate(self, size: int | None = None) -> int:
        if size is None:
            size = self.tell()
        _os.ftruncate(self._check(), size)
        return size

    def readinto(self, buffer: Any) -> int:
        if not self._readable:
            raise _io.UnsupportedOperation("not readable")
        view = memoryview(buffer).cast("B")
        data = nb_read(self._check(), len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        if not self._writable:
            raise _io.UnsupportedOperation("not writable")
        return nb_write(self._check(), data)

    def close(self) -> None:
        if self.closed:
            return
        fd = self._fd
        super().close()
        owner, self._owner = self._owner, None
        if not self._closefd:
            return
        if owner is not None:
            owner.close()
        else:
            _close_fd(fd)


def _stack(raw: Any, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None) -> Any:
    """Return buffers and text layers over *raw* as `io.open` makes them."""
    binary = "b" in mode
    line_buffering = not binary and (buffering == 1 or (buffering == -1 and raw.isatty()))
    if buffering in (-1, 1):
        buffering = _DEFAULT_BUFFER_SIZE
    if buffering == 0 and binary:
        return raw
    # Text cannot be read from a raw object; unbuffered text is written through.
    size = buffering or _DEFAULT_BUFFER_SIZE
    buffered: Any
    if raw.readable() and raw.writable():
        buffered = _io.BufferedRandom(raw, size) if raw.seekable() else _io.BufferedRWPair(raw, raw, size)
    elif raw.writable():
        buffered = _io.BufferedWriter(raw, size)
    else:
        buffered = _io.BufferedReader(raw, size)
    if binary:
        return buffered
    text = _io.TextIOWrapper(
        buffered, encoding, errors, newline, line_buffering=line_buffering, write_through=buffering == 0
    )
    text.mode = mode  # type: ignore[misc]
    return text


def _either(new_name: str, new: Any, old_name: str, old: Any, default: Any) -> Any:
    if new is not None and old is not None:
        raise TypeError(f"Cannot specify both {new_name}={new} and {old_name}={old}")
    return default if new is None and old is None else (old if new is None else new)


class FileObjectBase:
    """What the file objects share: the methods of `io`, and closing."""

    #: The object of the standard library's `io` that does the work.
    _io: Any = None
    _closed = False

    def __init__(self, stack: Any, name: Any = _MISSING) -> None:
        self._io = stack
        # Kept: the name is known after closing as well.
        self._name = getattr(stack, "name", _MISSING) if name is _MISSING else name
        for name in _METHODS:
            method = getattr(stack, name, None)
            if method is not None:
                setattr(self, name, self._wrap_method(method))

    def _wrap_method(self, method: Any) -> Any:
        """Return what is called for *method* of `io`."""
        return method

    @property
    def io(self) -> Any:
        """The object of the standard library's `io` behind this."""
        return self._io

    @property
    def closed(self) -> bool:
        """True when it was closed."""
        return self._closed or bool(self._io.closed)

    @property
    def name(self) -> Any:
        """The path or descriptor it was made of, also after closing. Raises AttributeError if that had no name."""
        if self._name is _MISSING or self._name is None:
            raise AttributeError("name")
        return self._name

    def close(self) -> None:
        """Flush and close. May switch."""
        if not self._closed:
            self._become_closed()
            self._io.close()

    def _become_closed(self) -> None:
        # First, so that what is called meanwhile finds it closed, as `__getattr__` says.
        self._closed = True
        for name in _METHODS:
            self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_io", "_name", "name"):
            raise AttributeError(name)
        if self._closed:
            raise FileObjectClosed
        return getattr(self._io, name)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    next = __next__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<{type(self).__name__} at {id(self):#x}{closed} _fobj={self._io!r}{self._extra_repr()}>"

    def _extra_repr(self) -> str:
        return ""


def _checked(mode: Any, buffering: Any, encoding: Any, errors: Any, newline: Any = None) -> str:
    """Return *mode* without the letter U. Raises TypeError or ValueError as `io.open` does, which had U before 3.11."""
    for name, value, kind in (("mode", mode, str), ("buffering", buffering, int)):
        if not isinstance(value, kind):
            raise TypeError(f"invalid {name}: {value!r}")
    for name, value in (("encoding", encoding), ("errors", errors)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"invalid {name}: {value!r}")
    letters = set(mode)
    if letters - set("axrwb+tU") or len(letters) != len(mode):
        raise ValueError(f"invalid mode: {mode!r}")
    if "U" in letters:
        if letters & set("xwa+"):
            raise ValueError("mode U cannot be combined with 'x', 'w', 'a', or '+'")
        letters = letters - {"U"} | {"r"}
    if {"t", "b"} <= letters:
        raise ValueError("can't have text and binary mode at once")
    action = letters & set("axrw")
    if len(action) > 1:
        raise ValueError("can't have read/write/append mode at once")
    if not action:
        raise ValueError("must have exactly one of read/write/append mode")
    if "b" in letters:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {'an' if name[0] == 'e' else 'a'} {name} argument")
    return "".join(action) + "".join(letter for letter in "b+t" if letter in letters)


def _raw_mode(mode: str) -> str:
    """Return the mode of `io.FileIO` below a file of *mode*."""
    return mode[0] + "b" + ("+" if "+" in mode else "")


class FileObjectPosix(FileObjectBase):
    """A file object on a descriptor that is made non-blocking; every wait switches.

    *fobj* is a descriptor, a path, or an object with `fileno`. *mode*, *buffering* (or *bufsize*), *encoding*,
    *errors*, *newline* and *closefd* (or *close*) are those of `open`.
    """

    #: Bytes of a buffer unless told otherwise.
    default_bufsize = _DEFAULT_BUFFER_SIZE

    def __init__(self, fobj: Any, mode: str = "r", bufsize: int | None = None, close: bool | None = None,
                 encoding: str | None = None, errors: str | None = None, newline: str | None = None,
                 buffering: int | None = None, closefd: bool | None = None) -> None:
        closefd = _either("closefd", closefd, "close", close, True)
        buffering = _either("buffering", buffering, "bufsize", bufsize, -1)
        mode = _checked(mode, buffering, encoding, errors, newline)
        owner = None
        if hasattr(fobj, "fileno"):
            fd, name, owner = fobj.fileno(), getattr(fobj, "name", None), fobj
        elif isinstance(fobj, int):
            fd = name = fobj
        else:
            # `open` knows what a mode means for the system.
            opened = open(fobj, _raw_mode(mode), 0)
            fd, name, owner, closefd = opened.fileno(), fobj, opened, True
        readable = "r" in mode or "+" in mode
        writable = bool(set("wax+") & set(mode))
        if isinstance(fobj, int) and fd < 0:
            raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
        self.fileio = _NonBlockingRaw(
            fd, readable, writable, fd if name is None else name, bool(closefd), owner, _raw_mode(mode)
        )
        super().__init__(_stack(self.fileio, mode, buffering, encoding, errors, newline), name)


class FileObjectThread(FileObjectBase):
    """A file object that works in the threads of *threadpool* (the hub's by default); every call switches.

    *lock* is False for no lock, True for one of its own, or a semaphore: a buffer is not to be used by two threads.
    """

    def __init__(self, fobj: Any, mode: str = "r", bufsize: int | None = None, close: bool | None = None,
                 encoding: str | None = None, errors: str | None = None, newline: str | None = None,
                 buffering: int | None = None, closefd: bool | None = None, *, lock: Any = True,
                 threadpool: Any = None) -> None:
        self.threadpool = threadpool or get_hub().threadpool
        self.lock = BoundedSemaphore(1) if lock is True else lock or None
        self._closefd = bool(_either("closefd", closefd, "close", close, True))
        buffering = _either("buffering", buffering, "bufsize", bufsize, -1)
        stack, name, self._owner = _open_blocking(fobj, mode, buffering, encoding, errors, newline, self._closefd)
        super().__init__(stack, name)

    def _extra_repr(self) -> str:
        return f" threadpool={self.threadpool!r}"

    def _apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if self.lock is None:
            return self.threadpool.apply(function, args, kwargs)
        with self.lock:
            return self.threadpool.apply(function, args, kwargs)

    def _wrap_method(self, method: Any) -> Any:
        return _partial(self._apply, method)

    def close(self) -> None:
        """Flush and close, in a thread. Switches."""
        if self.closed:
            return
        self._become_closed()
        self._apply(self._io.flush)
        if self._closefd:
            self._apply(self._io.close)
            if self._owner is not None:
                self._owner.close()


class FileObjectBlock(FileObjectBase):
    """A file object that blocks the thread; for tests."""

    def __init__(self, fobj: Any, mode: str = "r", bufsize: int | None = None, close: bool | None = None,
                 encoding: str | None = None, errors: str | None = None, newline: str | None = None,
                 buffering: int | None = None, closefd: bool | None = None) -> None:
        self._closefd = bool(_either("closefd", closefd, "close", close, True))
        buffering = _either("buffering", buffering, "bufsize", bufsize, -1)
        stack, name, self._owner = _open_blocking(fobj, mode, buffering, encoding, errors, newline, self._closefd)
        super().__init__(stack, name)

    def close(self) -> None:
        """Flush and close. Blocks."""
        if self.closed:
            return
        self._become_closed()
        self._io.flush()
        if self._closefd:
            self._io.close()
            if self._owner is not None:
                self._owner.close()


def _open_blocking(fobj: Any, mode: str, buffering: int, encoding: str | None, errors: str | None,
                   newline: str | None, closefd: bool) -> tuple[Any, Any, Any]:
    """Return an object of `io` on *fobj*, its name, and the object that the descriptor belongs to, if any."""
    mode = _checked(mode, buffering, encoding, errors, newline)
    if hasattr(fobj, "read") or hasattr(fobj, "write"):
        # Already a file object: it is used as it is.
        return fobj, getattr(fobj, "name", None), None
    owner = None
    name = fobj
    if hasattr(fobj, "fileno"):
        owner, name = fobj, getattr(fobj, "name", None)
        raw = _io.FileIO(fobj.fileno(), _raw_mode(mode), closefd=False)
    elif isinstance(fobj, int):
        raw = _io.FileIO(fobj, _raw_mode(mode), closefd=closefd)
    else:
        raw = _io.FileIO(fobj, _raw_mode(mode))
    return _stack(raw, mode, buffering, encoding, errors, newline), name, owner


def __getattr__(name: str) -> Any:
    # The setting may name a class of this module, so it can only be read when the module is there.
    if name == "FileObject":
        globals()[name] = config.fileobject
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
