"""Greenlets: threads that cost little and switch only where they wait.

The top level has what most programs use: `spawn` and `joinall`, `sleep`, `Timeout`. The rest is in the submodules, of
which `gevent.monkey` makes the standard library wait by switching.
"""
import importlib
import sys
import warnings
from collections.abc import Callable
from os import environ as _environ
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from gevent import _other_greenlet, event, lowlevel  # noqa: F401 (`gevent.event` is there without an import of its own)
from gevent._aliases import AliasFinder
from gevent._config import config
from gevent._greenrust import (
    Greenlet,
    GreenletExit,
    get_hub,
    getcurrent,
    getswitchinterval,
    setswitchinterval,
    sleep,
    spawn_raw,
)
from gevent._greenrust import __version__ as greenrust_version
from gevent.cancelscope import Cancelled, CancelScope, TooSlowError, fail_after, fail_at, move_on_after, move_on_at
from gevent.greenlet import joinall, killall
from gevent.hub import idle, iwait, kill, reinit, wait
from gevent.hub import signal as signal_handler
from gevent.os import fork
from gevent.taskgroup import TaskGroup
from gevent.timeout import Timeout, with_timeout

__all__ = [
    "Greenlet",
    "GreenletExit",
    "Timeout",
    "config",
    "fork",
    "get_hub",
    "getcurrent",
    "getswitchinterval",
    "greenrust_version",
    "idle",
    "iwait",
    "joinall",
    "kill",
    "killall",
    "reinit",
    "setswitchinterval",
    "signal_handler",
    "sleep",
    "spawn",
    "spawn_later",
    "spawn_raw",
    "wait",
    "with_timeout",
    # What the real gevent does not have.
    "CancelScope",
    "Cancelled",
    "TaskGroup",
    "TooSlowError",
    "fail_after",
    "fail_at",
    "move_on_after",
    "move_on_at",
]

#: The release of gevent whose interface this is; programs compare it.
__version__ = "26.9.0"


class _VersionInfo(NamedTuple):
    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: int


version_info = _VersionInfo(26, 9, 0, "final", 0)

if TYPE_CHECKING:
    _P = ParamSpec("_P")
    _T = TypeVar("_T")

    # Of the class itself, not of a subclass: that is easier to tell.
    def spawn(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Greenlet[_P, _T]: ...
    def spawn_later(
        seconds: float, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Greenlet[_P, _T]: ...
else:
    spawn = Greenlet.spawn
    spawn_later = Greenlet.spawn_later

    # gevent's own modules import these, so programs reach them although they have imported another one, such as
    # `gevent.pool`.
    _REACHED_WITHOUT_IMPORT = frozenset({"lock", "monkey", "queue", "util"})

    def __getattr__(name):
        if name in _REACHED_WITHOUT_IMPORT:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register_lowlevel() -> None:
    """Make `import greenlet` mean the greenlets that are switched here."""
    present = sys.modules.setdefault("greenlet", lowlevel)
    if present is not lowlevel:
        if hasattr(present, "_C_API"):
            _other_greenlet.confine(present)
        warnings.warn(
            f"the module greenlet of {getattr(present, '__file__', 'unknown origin')} was imported before gevent: "
            "code that uses it does not see gevent's greenlets, and cannot switch in them. Import gevent first, or "
            "import gevent.lowlevel instead of greenlet.",
            RuntimeWarning,
            stacklevel=3,
        )


_register_lowlevel()
AliasFinder.install()

if _environ.get("GEVENT_RUN_INFO_SIGNAL"):
    from gevent._run_info import print_run_info_as_configured as _print_run_info_as_configured

    _print_run_info_as_configured(_environ["GEVENT_RUN_INFO_SIGNAL"])
