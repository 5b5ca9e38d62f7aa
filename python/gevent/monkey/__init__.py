"""Makes the standard library cooperative: what blocks there lets other greenlets run.

`patch_all` first thing in a program is the rule. It also works later: what modules have taken from the standard
library before is exchanged where it is found (see `_repair`), classes such as `ssl.SSLContext` and `threading.Thread`
are changed in place, and what cannot be repaired is told by a MonkeyPatchWarning.

Which names of a module are replaced is said by the module of the same name here, in `__implements__`.
"""
import importlib as _importlib
import threading as _threading
from collections.abc import Callable
from functools import wraps as _wraps
from typing import Any

from gevent import events as _events
from gevent.monkey import _doctor, _imports, _locals, _locks, _main, _repair, _state, _warnings
from gevent.monkey._errors import MonkeyPatchWarning
from gevent.monkey._state import is_anything_patched, is_module_patched, is_object_patched, saved  # noqa: F401 (public)
from gevent.monkey.api import get_original, notify, patch_item, patch_module, remove_item  # noqa: F401 (public)

__all__ = [
    "patch_all",
    "patch_builtins",
    "patch_dns",
    "patch_os",
    "patch_queue",
    "patch_select",
    "patch_signal",
    "patch_socket",
    "patch_ssl",
    "patch_subprocess",
    "patch_sys",
    "patch_thread",
    "patch_time",
    "get_original",
    "is_module_patched",
    "is_object_patched",
    "patch_module",
    "main",
    "MonkeyPatchWarning",
]

# The options of `patch_all` that name a module (or a group of names) to patch.
_MODULES = [
    "socket",
    "dns",
    "time",
    "select",
    "thread",
    "os",
    "ssl",
    "subprocess",
    "sys",
    "builtins",
    "signal",
    "queue",
    "contextvars",
]


def _vetoable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a patch function return False when a subscriber raised DoNotPatch."""

    @_wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except _events.DoNotPatch:
            return False

    return call


def _patch_module(name: str, items: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    source = _importlib.import_module("gevent." + name)
    target = _importlib.import_module(getattr(source, "__target__", name))
    patch_module(target, source, items, **kwargs)
    return source, target


@_vetoable
def patch_os() -> None:
    """Replace what makes and waits for processes in `os`; use it together with `patch_signal`."""
    _patch_module("os")


@_vetoable
def patch_queue() -> None:
    """Replace the queues of `queue`."""
    source, _ = _patch_module("queue")
    if is_module_patched("threading"):
        _repair.renew_executors(source.SimpleQueue)
        _locks.exchange_queues(source.SimpleQueue, *_repair.keepers(()))


@_vetoable
def patch_time() -> None:
    """Replace `time.sleep`."""
    _patch_module("time")


@_vetoable
def patch_contextvars() -> None:
    """Do nothing: each greenlet has a context of its own already."""


@_vetoable
def patch_sys(stdin: bool = True, stdout: bool = True, stderr: bool = True) -> None:
    """Do nothing, as in gevent since Python 3: the standard streams stay the interpreter's."""


@_vetoable
def patch_builtins() -> None:
    """Do nothing: import locks are no problem on Python 3."""


@_vetoable
def patch_signal() -> None:
    """Replace `pthread_kill` and what concerns SIGCHLD in `signal`; use it together with `patch_os`."""
    _patch_module("signal")


def _convert_locks(former: int, logging: bool) -> None:
    """Exchange native locks that exist already, *former* being what this thread was known by."""
    if len(_threading.enumerate()) == 1:
        _threading._active_limbo_lock = _threading.Lock()
    ident = _threading.get_ident()
    kept = () if logging else ("logging",)
    _locks.exchange_locks(_threading.Lock, _threading.RLock, ident, *_repair.keepers(kept))
    _repair.adopt_held_import_locks(former, ident)


def _patch_event() -> None:
    patch_item(_threading, "Event", _importlib.import_module("gevent.event").Event)


@_vetoable
def patch_thread(threading: bool = True, _threading_local: bool = True, Event: bool = True, logging: bool = True,
                 existing_locks: bool = True, _warnings: list[str] | None = None) -> None:
    """Make threads greenlets: replace locks, thread identity, thread-local data, and how threads start.

    *threading* also patches `threading` itself, *Event* its Event, *_threading_local* the module of that name,
    *existing_locks* exchanges locks and thread-local data that exist already, with *logging* the locks of that module,
    too.
    """
    main_thread = _threading.main_thread()
    in_main_thread = _threading.current_thread() is main_thread
    first_time = not is_object_patched("threading", "_shutdown")
    former = _threading.get_ident()
    _locals.adopt_classes()
    thread, thread_target = _patch_module("thread", _warnings=_warnings, _notify_did_subscribers=False)
    source: Any = None
    if threading:
        source = _importlib.import_module("gevent.threading")
        original_shutdown = _threading._shutdown
        patch_module(_threading, source, _warnings=_warnings, _notify_did_subscribers=False)
        source._patch_thread_class(setattr)
        _state.save("threading", "Thread", _threading.Thread)
        if in_main_thread and first_time:
            source._adopt_main_thread()
            source._adopt_running_threads()
            patch_item(_threading, "_shutdown", source._make_shutdown(original_shutdown))
        if Event:
            _patch_event()
        if existing_locks:
            _convert_locks(former, logging)
            _locals.exchange_objects(*_repair.keepers(()))
    if _threading_local:
        patch_item(_importlib.import_module("_threading_local"), "local", thread._local)
    notify(_events.GeventDidPatchModuleEvent("thread", thread, thread_target))
    if source is not None:
        notify(_events.GeventDidPatchModuleEvent("threading", source, _threading))


@_vetoable
def patch_socket(dns: bool = True, aggressive: bool = True) -> None:
    """Replace the socket class and the functions that make sockets; with *dns*, also those that look up names."""
    source = _importlib.import_module("gevent.socket")
    items = source.__implements__
    if not dns:
        items = [name for name in items if name not in source.__dns__]
    # Imported here, where it is known that sockets are wanted; they derive from the standard library's class.
    sockets = _importlib.import_module("gevent.monkey._sockets")
    if "socket" in items:
        sockets.adopt_sockets()
    _patch_module("socket", items)


@_vetoable
def patch_dns() -> None:
    """Replace the functions of `socket` that look up names."""
    _patch_module("socket", _importlib.import_module("gevent.socket").__dns__)


@_vetoable
def patch_ssl(_warnings: list[str] | None = None, _first_time: bool = True) -> None:
    """Have the contexts of `ssl` make cooperative sockets; also those that exist already."""
    _importlib.import_module("gevent.monkey._tls_sockets").adopt_sockets()
    _patch_module("ssl", _warnings=_warnings)


@_vetoable
def patch_select(aggressive: bool = True) -> None:
    """Replace `select.select` and `select.poll`; *aggressive* removes `epoll` and its like."""
    source, _ = _patch_module("select", _patch_kwargs={"aggressive": aggressive})
    _repair.renew_poll_selectors(get_original("select", "poll"), source.poll)


@_vetoable
def patch_selectors(aggressive: bool = True) -> None:
    """Replace `selectors.DefaultSelector`; *aggressive* removes the classes that would block."""
    _patch_module("selectors", _patch_kwargs={"aggressive": aggressive})


@_vetoable
def patch_subprocess() -> None:
    """Replace `subprocess.Popen` and what is built on it."""
    _patch_module("subprocess")


def _patch_multiprocessing() -> None:
    """Have the processes of `multiprocessing` be managed by greenlets, as soon as that is imported."""
    for name, function in _importlib.import_module("gevent._multiprocessing").PATCHES.items():
        _imports.when_imported(name, function)


def _choose(settings: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Return what of *settings* is new: a second call can patch more, never less."""
    key = "_gevent_saved_patch_all_module_settings"
    # By the name here, which programs reset to patch again.
    before = saved.setdefault(key, {})
    if before and before != settings:
        _warnings.queue(
            "Patching more than once will result in the union of all True parameters being patched", warnings
        )
    new = {name: value for name, value in settings.items() if name not in before or (value and not before[name])}
    before.update(new)
    return new


def patch_all(socket: bool = True, dns: bool = True, time: bool = True, select: bool = True, thread: bool = True,
              os: bool = True, ssl: bool = True, subprocess: bool = True, sys: bool = False, aggressive: bool = True,
              Event: bool = True, builtins: bool = True, signal: bool = True, queue: bool = True,
              contextvars: bool = True, **kwargs: Any) -> Any:
    """Patch everything, but for what is turned off.

    *aggressive* removes what would block, such as `select.epoll`; other keywords are for plug-ins. Returns True, or
    False when a subscriber cancelled it, or None when there was nothing new to patch. A second call can only add.
    """
    settings = {name: value for name, value in locals().items() if name != "kwargs"}
    messages: list[str] = []
    chosen = _choose(settings, messages)
    if not chosen:
        _warnings.process(messages)
        return None
    try:
        notify(_events.GeventWillPatchAllEvent(chosen, kwargs), messages)
    except _events.DoNotPatch:
        return False
    if chosen.get("signal") and not settings["os"]:
        _warnings.queue(
            "Patching signal but not os will result in SIGCHLD handlers installed after this not being called and "
            "os.waitpid may not function correctly if gevent.subprocess is used. This may raise an error in the "
            "future.",
            messages,
        )
    if _doctor.patient is not None:
        _doctor.patient.note_before()
    on = chosen.get
    if on("os"):
        patch_os()
    # Threads before `time`: modules that threads need take the real sleep.
    if on("thread"):
        patch_thread(Event=Event, _warnings=messages)
    elif on("Event") and is_module_patched("threading"):
        _patch_event()
    if on("time"):
        patch_time()
    if on("sys"):
        patch_sys()
    if on("socket"):
        patch_socket(dns=dns, aggressive=aggressive)
    elif on("dns") and is_module_patched("socket"):
        patch_dns()
    # Selectors first: some versions of Python try each one when they choose, and `select` must be real then.
    if on("select") or (on("aggressive") and is_module_patched("select")):
        patch_selectors(aggressive=aggressive)
        patch_select(aggressive=aggressive)
    if on("ssl"):
        patch_ssl(_warnings=messages)
    if on("subprocess"):
        patch_subprocess()
    if on("builtins"):
        patch_builtins()
    if on("signal"):
        patch_signal()
    if on("queue"):
        patch_queue()
    if on("contextvars"):
        patch_contextvars()
    if settings["os"] and settings["thread"] and settings["select"] and not _state.is_multiprocessing_patched:
        _state.is_multiprocessing_patched = True
        _patch_multiprocessing()
    notify(_events.GeventDidPatchBuiltinModulesEvent(chosen, kwargs), messages)
    notify(_events.GeventDidPatchAllEvent(chosen, kwargs), messages)
    _doctor.end(messages)
    _warnings.process(messages)
    return True


def main() -> Any:
    """Run a script with the standard library patched, as the command line says."""
    return _main.run(patch_all, [name for name in _MODULES if "patch_" + name in globals()])
