"""`python -m gevent.monkey --check script`: what the script did before it patched, and what came of that.

The script runs until its first `patch_all` has done its work; then the report is printed, and the process ends: with
status 0 if all was repaired, 1 if something was not, or if the script never patches.
"""
import _socket
import ast
import functools
import gc
import platform
import sys
import threading
import types
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.monkey import _locks, _repair, _state, _warnings

#: What is asked for by `--check`; None when nothing is.
patient: "Patient | None" = None

_PATCH_EARLIER = "call patch_all() before what made it is imported"


def _is_program(module_name: Any) -> bool:
    return isinstance(module_name, str) and not module_name.startswith("gevent") and not _repair.is_stdlib(module_name)


def _names(things: Iterable[str], limit: int = 12) -> str:
    listed = sorted(set(things))
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")


class Patient:
    """A script that is checked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._before: set[str] = set()
        self._threads: list[str] = []
        self._modules_at_start = set(sys.modules)

    def note_before(self) -> None:
        """Note, before anything is patched, what is there."""
        self._before = {
            name.partition(".")[0]
            for name in set(sys.modules) - self._modules_at_start
            if _is_program(name) and name != "__main__"
        }
        self._threads = [
            f"{thread.name}{' (daemon)' if thread.daemon else ''}"
            for thread in threading.enumerate()
            if thread is not threading.main_thread()
        ]

    def report(self, messages: list[str]) -> int:
        """Print what came of patching, which had *messages* to warn of; returns the exit status."""
        caller: Any = sys._getframe(2)
        while caller.f_back is not None and caller.f_globals.get("__name__", "").startswith("gevent.monkey"):
            caller = caller.f_back
        patched_at = caller.f_lineno if caller.f_code.co_filename == self.path else 0
        print(f"{self.path}: patch_all() is called at {caller.f_code.co_filename}:{caller.f_lineno}")
        print(f"{platform.python_implementation()} {platform.python_version()}, gevent {gevent.__version__}\n")
        print(f"imported before: {_names(self._before) or 'nothing that matters'}")
        for line, text in self._early_imports(patched_at):
            print(f"    {self.path}:{line}: {text}")
        self._print_repaired()
        problems = self._problems(messages)
        if not problems:
            print("not repaired: nothing")
            return 0
        print("not repaired:")
        for what, remedy in problems:
            print(f"    {what}\n        {remedy}")
        return 1

    def _early_imports(self, patched_at: int) -> list[tuple[int, str]]:
        """Return the line and the text of the script's own imports of programs before it patches."""
        found = []
        with open(self.path, encoding="utf-8") as script:
            tree = ast.parse(script.read())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or node.lineno >= patched_at:
                continue
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.partition(".")[0] in self._before for name in modules):
                found.append((node.lineno, ast.unparse(node)))
        return sorted(found)

    def _print_repaired(self) -> None:
        references = [f"{module}.{name}" for module, name in _repair.repaired if _is_program(module)]
        print("repaired:")
        if references:
            print(f"    {len(references)} names that modules had taken: {_names(references)}")
        if _locks.exchanged:
            print(f"    {_locks.exchanged} locks, conditions, queues and thread-local data, wherever objects hold them")
        sockets = getattr(sys.modules.get("gevent.monkey._sockets"), "adopted", 0)
        if sockets:
            print(f"    {sockets} sockets that were open")
        if self._threads:
            print(f"    {len(self._threads)} threads that run go on as native ones: {_names(self._threads)}")
        if _repair.rebased:
            print(f"    {len(_repair.rebased)} classes that derived from what is replaced: {_names(_repair.rebased)}")
        if not (references or _locks.exchanged or sockets or _repair.rebased or self._threads):
            print("    nothing had to be")

    def _problems(self, messages: list[str]) -> list[tuple[str, str]]:
        found = [(message, "call patch_all() before the module of the class is imported") for message in messages]
        if _locks.left:
            found.append((
                "locks, queues or thread-local data that something else refers to, such as a tuple or a thread: "
                f"{_names(_locks.left)}",
                "they block the thread of all greenlets, or are shared by them: " + _PATCH_EARLIER,
            ))
        sockets = [
            repr(one)
            for one in gc.get_objects()
            if issubclass(type(one), _socket.socket)
            and not any(base.__module__.startswith("gevent") for base in type(one).__mro__)
            and one.fileno() >= 0
        ]
        if sockets:
            found.append((
                f"open sockets of classes that cannot be changed: {_names(sockets, 3)}",
                "they block the thread of all greenlets: connect after patching, or " + _PATCH_EARLIER,
            ))
        kept = self._kept_originals()
        if kept:
            found.append((
                f"originals that are kept where nobody looks for them: {_names(kept)}",
                "call patch_all() before the module is imported, or name the function at the call",
            ))
        return found

    def _kept_originals(self) -> list[str]:
        """Return where programs keep a replaced function: in arguments' defaults, classes, partial functions."""
        originals = {
            id(value): f"{module}.{name}"
            for module, names in _state.saved.items()
            if not module.startswith("_gevent")
            for name, value in names.items()
            if callable(value) and value is not getattr(sys.modules.get(module), name, None)
        }
        found = []

        def look(owner: str, values: Iterable[Any]) -> None:
            found.extend(f"{originals[id(value)]} in {owner}" for value in values if id(value) in originals)

        for one in gc.get_objects():
            kind = type(one)
            if kind is types.FunctionType and _is_program(one.__module__):
                defaults = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
                look(f"the defaults of {one.__module__}.{one.__qualname__}", defaults)
            elif kind is functools.partial:
                look("a functools.partial", [one.func, *one.args])
            elif issubclass(kind, type) and _is_program(vars(one).get("__module__")):
                values = [value.__func__ if type(value) is staticmethod else value for value in vars(one).values()]
                look(f"the class {one.__module__}.{one.__qualname__}", values)
        return found


def begin(path: str) -> None:
    """Check the script *path*, which runs next."""
    global patient
    patient = Patient(path)
    _warnings.collected = []


def end(messages: list[str]) -> None:
    """Print the report and end the process, if a script is checked: it has patched."""
    if patient is not None:
        _warnings.process(messages)
        status = patient.report(_warnings.collected or [])
        sys.stdout.flush()
        raise SystemExit(status)
