"""Processes that do the same work: forked, replaced when they die or are to be renewed, ended together.

The first process does no work of its own; what its children share, a listening socket for instance, it has made before.
It is the place of `gevent.pywsgi.WSGIServer` with *workers*.
"""
import os as _os
import signal as _signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gevent import os, socket
from gevent.event import Event
from gevent.greenlet import Greenlet
from gevent.hub import signal as signal_handler
from gevent.queue import Queue
from gevent.timeout import Timeout

__all__ = ["Supervisor", "Worker"]

#: Seconds that a worker has to live, lest its successor waits for so long.
MIN_LIFE = 1.0

#: Seconds that workers have beyond the time-out of their work, until they are killed.
LENIENCY = 2.0


class Worker:
    """A child process: its *pid*, its *generation*, and whether it said that it works (`ready`)."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.pid = 0
        self.ready = False
        self.told = False
        self.started = 0.0


class Supervisor:
    """Keeps *count* processes that call *work* with an Event, which is set when they are to end.

    *work* gets as its second argument what it calls when it is ready. *timeout*, in seconds, is what it needs to end; a
    process that takes longer is killed. SIGTERM and SIGINT end all processes, a second one kills them; SIGHUP forks new
    ones and ends the old ones when these are ready, so that what they load is loaded anew. *report* is called with
    lines about what happens, *let_go* when the end begins, to close what the processes share.
    """

    def __init__(self, work: Callable[[Event, Callable[[], Any]], Any], count: int, timeout: float,
                 report: Callable[[str], Any], let_go: Callable[[], Any]) -> None:
        self.work = work
        self.count = count
        self.timeout = timeout
        self._report = report
        self.let_go = let_go
        self.workers: dict[int, Worker] = {}
        self._events: Queue[Any] = Queue()
        self._generation = 0
        self._signals: list[Any] = []
        self._listeners: set[Greenlet] = set()
        self._has_worked = False

    def run(self) -> None:
        """Run until the end is asked for. Switches. Raises SystemExit if no process could ever begin its work."""
        for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
            self._signals.append(signal_handler(number, self._events.put, ("signal", number)))
        try:
            self._fork_all()
            while self._act(*self._events.get()):
                pass
        finally:
            self._end()
            self._forget_signals()

    def _say(self, line: str) -> None:
        try:
            self._report(line)
        except Exception:
            # A full disk, a reader of the log that is gone: the work goes on without words.
            pass

    # -- what happens ---------------------------------------------------------------------------------------

    def _act(self, what: str, about: Any) -> bool:
        if what == "signal":
            if about != _signal.SIGHUP:
                return False
            self._generation += 1
            self._say(f"SIGHUP: {self.count} new workers")
            self._fork_all()
        elif what == "ready":
            self._has_worked = about.ready = True
            present = [worker for worker in self.workers.values() if worker.generation == self._generation]
            if sum(worker.ready for worker in present) == self.count:
                self._say(f"workers ready: {self.count}")
                for worker in self.workers.values():
                    if worker.generation != self._generation:
                        self._tell(worker)
        elif what == "exit":
            self._bury(*about)
        elif what == "fork" and about == self._generation:
            self._fork()
        return True

    def _bury(self, worker: Worker, status: int) -> None:
        self.workers.pop(worker.pid, None)
        if worker.told or worker.generation != self._generation:
            return
        code = _os.waitstatus_to_exitcode(status)
        self._say(f"worker {worker.pid} {f'was killed by signal {-code}' if code < 0 else f'exited with {code}'}")
        if worker.ready:
            early = self._now() - worker.started < MIN_LIFE
            self._fork_later(MIN_LIFE if early else 0)
        else:
            self._miss()

    def _miss(self) -> None:
        """Do without a new worker that could not begin."""
        former = [other for other in self.workers.values()
                  if other.generation != self._generation and other.ready and not other.told]
        if former:
            # What is new does not work; what is old still does.
            self._say("the new workers do not start: the old ones stay")
            self._generation = max(other.generation for other in former)
            for other in self.workers.values():
                if other.generation != self._generation:
                    self._tell(other)
            # Some of the old ones may have died meanwhile.
            for _ in range(self.count - sum(other.generation == self._generation for other in former)):
                self._fork_later(MIN_LIFE)
        elif self._has_worked:
            self._fork_later(MIN_LIFE)
        else:
            raise SystemExit("no worker starts")

    def _fork_later(self, seconds: float) -> None:
        Greenlet.spawn_later(seconds, self._events.put, ("fork", self._generation))

    def _tell(self, worker: Worker) -> None:
        if not worker.told:
            worker.told = True
            self._send(worker, _signal.SIGTERM)
            Greenlet.spawn_later(self.timeout + LENIENCY, self._send, worker, _signal.SIGKILL)

    def _send(self, worker: Worker, number: int) -> None:
        if worker.pid in self.workers:
            try:
                _os.kill(worker.pid, number)
            except ProcessLookupError:
                pass

    def _end(self) -> None:
        self.let_go()
        for worker in list(self.workers.values()):
            self._tell(worker)
        with Timeout(self.timeout + 2 * LENIENCY, False):
            while self.workers:
                what, about = self._events.get()
                if what == "exit":
                    self.workers.pop(about[0].pid, None)
                elif what == "signal" and about != _signal.SIGHUP:
                    for worker in self.workers.values():
                        self._send(worker, _signal.SIGKILL)

    # -- processes ------------------------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return os.times().elapsed

    def _forget_signals(self) -> None:
        for watcher in self._signals:
            watcher.cancel()
        self._signals.clear()

    def _fork_all(self) -> None:
        generation = self._generation
        for _ in range(self.count):
            # It is another one when a process could not be made.
            if self._generation == generation:
                self._fork()

    def _fork(self) -> None:
        worker = Worker(self._generation)
        worker.started = self._now()
        self._flush()
        try:
            ours, its = socket.socketpair()
            try:
                worker.pid = os.fork_and_watch(
                    lambda watcher: self._events.put(("exit", (worker, watcher.rstatus))), ref=True)
            except BaseException:
                ours.close()
                its.close()
                raise
        except OSError as error:
            self._say(f"no process for a worker: {error}")
            self._miss()
            return
        if worker.pid == 0:
            ours.close()
            self._live(its)
        its.close()
        self.workers[worker.pid] = worker
        listener = Greenlet.spawn(self._listen, worker, ours)
        self._listeners.add(listener)
        listener.link(self._listeners.discard)

    def _listen(self, worker: Worker, ours: socket.socket) -> None:
        # The worker's end is closed when it ends; ours, when this process does.
        with ours:
            if ours.recv(1):
                self._events.put(("ready", worker))
                ours.recv(1)

    def _live(self, its: socket.socket) -> None:
        code = 1
        try:
            self._forget_signals()
            self.workers.clear()
            # The other processes' words are not for this one.
            for listener in self._listeners:
                listener.kill(block=False)
            ended = Event()
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
            _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
            signal_handler(_signal.SIGTERM, ended.set)
            Greenlet.spawn(self._wait_for_parent, its, ended)
            self.work(ended, lambda: its.sendall(b"+"))
            code = 0
        except SystemExit as error:
            # As the interpreter does it.
            if error.code is None or isinstance(error.code, int):
                code = error.code or 0
            else:
                sys.stderr.write(f"{error.code}\n")
        except BaseException:
            traceback.print_exc()
        finally:
            # The frames below are the first process's.
            try:
                self._flush()
            finally:
                _os._exit(code)

    @staticmethod
    def _flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                # None, where the descriptor was closed when the interpreter started.
                pass

    @staticmethod
    def _wait_for_parent(its: socket.socket, ended: Event) -> None:
        try:
            its.recv(1)
        except OSError:
            pass
        ended.set()
