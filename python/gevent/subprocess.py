"""Processes whose end and whose pipes are waited for by greenlets.

`Popen` is a subclass of the standard library's, which starts the program; the event loop watches it, and its pipes are
`gevent.fileobject.FileObjectPosix`.
"""
import io as _io
import os as _os
import subprocess as _stdlib
from collections.abc import Callable
from typing import Any

from gevent import os as _gevent_os
from gevent._greenrust import AsyncResult, Greenlet, get_hub, getcurrent, sleep
from gevent.fileobject import FileObject, FileObjectPosix  # noqa: F401 (FileObject: under this name in gevent)
from gevent.hub import wait as _wait_for

__implements__ = ["Popen", "call", "check_call", "check_output", "run", "getoutput", "getstatusoutput"]
__imports__ = [name for name in dir(_stdlib) if not name.startswith("__") and name not in __implements__]
globals().update({name: getattr(_stdlib, name) for name in __imports__})
__all__ = list(_stdlib.__all__)
# Private ones that gevent exports as well.
_PRIVATE = ["_USE_POSIX_SPAWN", "_fork_exec", "_use_posix_spawn"]
__all__ += [name for name in _PRIVATE if hasattr(_stdlib, name)]

PIPE = _stdlib.PIPE
STDOUT = _stdlib.STDOUT
TimeoutExpired = _stdlib.TimeoutExpired
CalledProcessError = _stdlib.CalledProcessError
CompletedProcess = _stdlib.CompletedProcess
_StdlibPopen = _stdlib.Popen


def _cooperative(stream: Any, bufsize: int) -> Any:
    """Return a file object like *stream*, which the standard library made for a pipe, whose waiting switches.

    *bufsize* is that of `Popen`; from 2 on the size of the buffer in bytes.
    """
    if stream is None:
        return None
    text: dict[str, Any] = {}
    mode = "w" if stream.writable() else "r"
    buffering = bufsize if bufsize > 1 else -1
    if isinstance(stream, _io.TextIOWrapper):
        text = {"encoding": stream.encoding, "errors": stream.errors}
        # What is written for a program that answers must not stay in the text layer.
        if stream.line_buffering:
            buffering = 1
        stream = stream.detach()
    else:
        mode += "b"
    if isinstance(stream, _io.RawIOBase):
        buffering = 0
    else:
        stream = stream.detach()
    return FileObjectPosix(stream, mode, buffering, **text)


class Popen(_StdlibPopen):
    """A child process, as `subprocess.Popen`; `wait`, `communicate` and the pipes switch. Also for `gevent.wait`.

    *threadpool* is accepted for gevent's sake and not used.
    """

    def __init__(self, args: Any, bufsize: Any = -1, *arguments: Any, threadpool: Any = None, **options: Any) -> None:
        if (arguments[2] if len(arguments) > 2 else options.get("stdout")) == STDOUT:
            raise ValueError("STDOUT can only be used for stderr")
        self.result: Any = AsyncResult()
        self._loop = get_hub().loop
        self._links: dict[Any, Any] = {}
        # Those that `communicate` started, None before it was called.
        self._communicating_greenlets: list[Any] | None = None
        self._collected: dict[str, list[Any]] = {}
        self._bufsize = bufsize if isinstance(bufsize, int) else -1
        super().__init__(args, bufsize, *arguments, **options)

    def _get_handles(self, stdin: Any, stdout: Any, stderr: Any) -> Any:
        # Whether a pipe blocks is shared with the program that gets it, and one that reads from the output of another
        # does not expect that it must wait by itself.
        for stream in (stdin, stdout, stderr):
            if isinstance(stream, FileObjectPosix):
                _os.set_blocking(stream.fileno(), True)
        return super()._get_handles(stdin, stdout, stderr)

    def _execute_child(self, *args: Any, **kwargs: Any) -> None:
        super()._execute_child(*args, **kwargs)
        _gevent_os._watch_child(self.pid, self._on_child, self._loop, ref=True)
        self.stdin = _cooperative(self.stdin, self._bufsize)
        self.stdout = _cooperative(self.stdout, self._bufsize)
        self.stderr = _cooperative(self.stderr, self._bufsize)

    def pipe_cloexec(self) -> tuple[int, int]:
        """Return the descriptors of a new pipe, which children do not inherit."""
        return _os.pipe()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} pid={self.pid!r} returncode={self.returncode!r}>"

    def __del__(self, *args: Any, **kwargs: Any) -> None:
        # The watcher collects the child, so it needs no list of those to be collected.
        if self.__dict__.get("returncode", 0) is None:
            self.returncode = 0
            super().__del__(*args, **kwargs)

    def _on_child(self, watcher: Any) -> None:
        # Runs in the hub.
        self.returncode = _os.waitstatus_to_exitcode(watcher.rstatus)
        self.result.set(self.returncode)

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs. May switch, so that the loop can notice the end."""
        if self.returncode is None and getcurrent() is not get_hub():
            sleep(0.00001)
        return self.returncode

    def wait(self, timeout: float | None = None, _raise_exc: bool = True) -> int | None:
        """Wait for the end and return the exit status. Switches.

        Raises TimeoutExpired when *timeout* seconds are over first.
        """
        if self.returncode is None:
            self.result.wait(timeout)
        if self.returncode is None and _raise_exc:
            raise TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send the signal *sig*; nothing when the process has ended."""
        self.poll()
        if self.returncode is None:
            try:
                _os.kill(self.pid, sig)
            except ProcessLookupError:
                # It has ended, and the loop has not told yet.
                pass

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Call *callback* with this object in the hub when the process has ended."""

        def link(_: Any) -> None:
            self._links.pop(callback, None)
            callback(self)

        self._links[callback] = link
        self.result.rawlink(link)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Undo `rawlink`."""
        link = self._links.pop(callback, None)
        if link is not None:
            self.result.unlink(link)

    # -- communicate ----------------------------------------------------------------------------------------

    def _feed(self, data: Any) -> None:
        try:
            if data:
                self.stdin.write(data)
            self.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            # The program did not want all of it.
            self._close_quietly(self.stdin)

    @staticmethod
    def _close_quietly(stream: Any) -> None:
        try:
            stream.close()
        except OSError:
            pass

    def _collect(self, name: str) -> None:
        # From the binary layer, in pieces as they come, so that a time-out can tell what came.
        stream = getattr(self, name)
        binary = getattr(stream.io, "buffer", stream.io)
        read = getattr(binary, "read1", binary.read)
        pieces = self._collected.setdefault(name, [])
        try:
            while piece := read(65536):
                pieces.append(piece)
        finally:
            stream.close()

    def _output(self, name: str) -> Any:
        stream = getattr(self, name)
        if stream is None:
            return None
        data = b"".join(self._collected.get(name, ()))
        if not isinstance(stream.io, _io.TextIOWrapper):
            return data
        return data.decode(stream.io.encoding, stream.io.errors).replace("\r\n", "\n").replace("\r", "\n")

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send *input*, read all output, wait for the end; returns output and errors. Switches.

        Raises TimeoutExpired, with the output so far, when *timeout* seconds are over first; it can be called again.
        """
        if self._communicating_greenlets is None:
            self._communicating_greenlets = []
            if self.stdin is not None:
                self._communicating_greenlets.append(Greenlet.spawn(self._feed, input))
            for name in ("stdout", "stderr"):
                if getattr(self, name) is not None:
                    self._communicating_greenlets.append(Greenlet.spawn(self._collect, name))
        elif input:
            raise ValueError("Cannot send input after starting communication")
        waiting = [*self._communicating_greenlets, self]
        done = _wait_for(waiting, timeout)
        for greenlet in self._communicating_greenlets:
            if greenlet.ready():
                greenlet.get()
        if len(done) != len(waiting):
            raise TimeoutExpired(
                self.args,
                timeout or 0,
                output=b"".join(self._collected.get("stdout", ())) or None,
                stderr=b"".join(self._collected.get("stderr", ())) or None,
            )
        return self._output("stdout"), self._output("stderr")

    def __exit__(self, t: Any, v: Any, tb: Any) -> None:
        if self._communicating_greenlets is not None:
            # Those that read must not be left behind, holding what is closed here.
            for greenlet in self._communicating_greenlets:
                greenlet.kill()
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                try:
                    stream.close()
                except RuntimeError:
                    # A greenlet of the program is in the buffer, which refuses; the descriptor below can be closed,
                    # and that wakes it.
                    stream.fileio.close()
        try:
            if self.stdin is not None:
                self.stdin.close()
        finally:
            # An interrupt is not to be kept waiting by a program that goes on.
            if t is not KeyboardInterrupt:
                self.wait()


def call(*popenargs: Any, timeout: float | None = None, **kwargs: Any) -> int | None:
    """Run a program and return its exit status. Switches. Raises TimeoutExpired after *timeout* seconds."""
    with Popen(*popenargs, **kwargs) as process:
        try:
            return process.wait(timeout=timeout)
        except BaseException:
            process.kill()
            raise


def check_call(*popenargs: Any, **kwargs: Any) -> int:
    """Run a program. Switches. Raises CalledProcessError when its exit status is not 0."""
    status = call(*popenargs, **kwargs)
    if status:
        raise CalledProcessError(status, kwargs.get("args", popenargs[0] if popenargs else None))
    return 0


def run(*popenargs: Any, input: Any = None, capture_output: bool = False, timeout: float | None = None,
        check: bool = False, **kwargs: Any) -> Any:
    """Run a program as `subprocess.run` does; returns a CompletedProcess. Switches."""
    if input is not None:
        if kwargs.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        kwargs["stdin"] = PIPE
    if capture_output:
        if kwargs.get("stdout") is not None or kwargs.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        kwargs["stdout"] = kwargs["stderr"] = PIPE
    with Popen(*popenargs, **kwargs) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        status = process.returncode
    if check and status:
        raise CalledProcessError(status, process.args, output=stdout, stderr=stderr)
    return CompletedProcess(process.args, status, stdout, stderr)


def check_output(*popenargs: Any, timeout: float | None = None, **kwargs: Any) -> Any:
    """Run a program and return its output. Switches. Raises CalledProcessError when its exit status is not 0."""
    for name in ("stdout", "check"):
        if name in kwargs:
            raise ValueError(f"{name} argument not allowed, it will be overridden.")
    if "input" in kwargs and kwargs["input"] is None:
        kwargs["input"] = "" if any(kwargs.get(key) for key in ("text", "universal_newlines", "encoding", "errors")) \
            else b""
    return run(*popenargs, stdout=PIPE, timeout=timeout, check=True, **kwargs).stdout


def getstatusoutput(cmd: Any, *, encoding: str | None = None, errors: str | None = None) -> tuple[int, str]:
    """Run *cmd* in a shell; returns its exit status and its output and errors, without the last newline. Switches."""
    try:
        output = check_output(cmd, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors)
        status = 0
    except CalledProcessError as error:
        output, status = error.output, error.returncode
    return status, output.removesuffix("\n")


def getoutput(cmd: Any, *, encoding: str | None = None, errors: str | None = None) -> str:
    """Run *cmd* in a shell; returns its output and errors, without the last newline. Switches."""
    return getstatusoutput(cmd, encoding=encoding, errors=errors)[1]
