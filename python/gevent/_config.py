"""The settings of gevent: `gevent.config`.

A setting is an attribute of `gevent.config` and an environment variable. Whichever is read first decides: the value of
the environment variable is read once, at first use; assigning to the attribute replaces it. Settings that shape the
hub (`resolver`, `threadpool`, `stack_size`) take effect for what is made after the assignment, so assign before the
first blocking call.

`python -m gevent._config` prints every setting.
"""
import importlib
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never

from gevent import _greenrust

__all__ = ["config"]

_TRUE = frozenset({"1", "true", "on", "yes"})
_FALSE = frozenset({"0", "false", "off", "no", ""})
_BYTE_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def _as_given(value: Any) -> Any:
    return value


def _as_list(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


def validate_bool(value: Any) -> bool:
    if not isinstance(value, str):
        return bool(value)
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"Invalid boolean string: {value!r}")


def _as_int(value: Any) -> int | None:
    return int(value) if value else None


def _positive(value: Any) -> Any:
    if value is not None and value <= 0:
        raise ValueError(f"Must be positive: {value!r}")
    return value


def _as_positive_float(value: Any) -> float | None:
    return _positive(float(value)) if value else None


def _as_seconds_or_never(value: Any) -> float | None:
    """Seconds as a float; -1 means without limit."""
    if not value:
        return None
    seconds = float(value)
    return seconds if seconds == -1 else _positive(seconds)


def _as_bytes(value: Any) -> int | None:
    if not value:
        return None
    if isinstance(value, str):
        unit = _BYTE_UNITS.get(value[-2:].lower())
        value = int(value[:-2]) * unit if unit else int(value)
    return _positive(value)


class Setting:
    """One setting: its name, where its default comes from, and how a value is checked."""

    def __init__(
        self,
        name: str,
        description: str,
        default: Any = None,
        convert: Callable[[Any], Any] = _as_given,
        environment_key: str | None = None,
        on_set: Callable[[Any], None] | None = None,
    ) -> None:
        self.name = name
        self.description = textwrap.dedent(description).strip()
        self.default = default
        self.convert = convert
        self.environment_key = environment_key or "GEVENT_" + name.upper()
        self.on_set = on_set
        self._values: list[Any] = []

    def get(self) -> Any:
        """Return the value; reads the environment the first time."""
        if not self._values:
            self._values = [self.validate(os.environ.get(self.environment_key, self.default))]
        return self._values[0]

    def set(self, value: Any) -> None:
        """Replace the value.

        Raises ValueError, TypeError or ImportError when *value* is not one that the setting can have.
        """
        value = self.validate(value)
        if self.on_set is not None:
            self.on_set(value)
        self._values = [value]

    def validate(self, value: Any) -> Any:
        """Return *value* in the setting's type, or raise."""
        return self.convert(value)

    def help(self) -> str:
        """Return the description with the default and the environment variable."""
        return f"{self.description}\n\nDefault: {self.default!r}\nEnvironment variable: {self.environment_key}"


class ImportableSetting(Setting):
    """A setting whose value is a class: given as itself, as a dotted name, as a short name, or as a list of names.

    Of a list (comma separated in the environment variable) the first that can be imported is taken.
    """

    def __init__(self, name: str, description: str, default: Any, shortname_map: Mapping[str, str] | None = None,
                 environment_key: str | None = None) -> None:
        super().__init__(name, description, default, _as_list, environment_key)
        self.shortname_map = dict(shortname_map or {})

    def _import_one(self, path: Any) -> Any:
        if not isinstance(path, str):
            return path
        path = self.shortname_map.get(path, path)
        module_name, dot, attribute = path.rpartition(".")
        if not dot or "/" in path:
            raise ImportError(f"Cannot import {path!r}. Required format: [package.]module.class. "
                              f"Or choose from {list(self.shortname_map)!r}")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except AttributeError:
            raise ImportError(f"Cannot import {attribute!r} from {module_name!r}") from None

    def validate(self, value: Any) -> Any:
        value = self.convert(value)
        if isinstance(value, type) or callable(value):
            return value
        if not value:
            raise ImportError("Cannot import from empty list")
        *preferred, last = value
        for candidate in preferred:
            try:
                return self._import_one(candidate)
            except ImportError:
                continue
        return self._import_one(last)

    def get_options(self) -> dict[str, Any]:
        """Return, for each short name, what it names, or the ImportError that it gives."""
        options: dict[str, Any] = {}
        for name in self.shortname_map:
            try:
                options[name] = self._import_one(name)
            except ImportError as error:
                options[name] = error
        return options

    def help(self) -> str:
        """Return the description with the short names, the default and the environment variable."""
        return f"{super().help()}\nShort names: {', '.join(self.shortname_map) or '(none)'}"


# Every name of the loops of gevent, so that a configuration made for it is accepted: there is one loop here.
_LOOP = "gevent._greenrust.loop"
_LOOP_NAMES = {
    "libev-cext": _LOOP,
    "libev-cffi": _LOOP,
    "libuv-cffi": _LOOP,
    "libuv": _LOOP,
    "gevent.libev.corecext.loop": _LOOP,
    "gevent.libev.corecffi.loop": _LOOP,
    "gevent.libuv.loop.loop": _LOOP,
}


class Loop(ImportableSetting):
    """The setting `loop`."""

    def __init__(self) -> None:
        super().__init__(
            "loop",
            "The event loop. There is one; the names of gevent's loops are accepted and mean it.",
            ["libev-cext", "libev-cffi", "libuv-cffi"],
            _LOOP_NAMES,
        )


def _set_stack_size(size: int | None) -> None:
    if size is not None:
        _greenrust.set_stack_size(size)


def _make_settings() -> Iterable[Setting]:
    yield ImportableSetting(
        "resolver",
        "The class of `gevent.hub.Hub.resolver`, which looks up host names. `native` is greenrust's own, which `ares` "
        "and `dnspython` mean as well.",
        ["thread", "dnspython", "ares", "block"],
        {
            "native": "gevent.resolver.native.Resolver",
            "ares": "gevent.resolver.ares.Resolver",
            "thread": "gevent.resolver.thread.Resolver",
            "block": "gevent.resolver.blocking.Resolver",
            "dnspython": "gevent.resolver.dnspython.Resolver",
        },
    )
    yield ImportableSetting("threadpool", "The class of `gevent.hub.Hub.threadpool`.", "gevent.threadpool.ThreadPool")
    yield Setting(
        "threadpool_idle_task_timeout",
        "Seconds after which an idle thread of the hub's thread pool ends; -1 for never.",
        5.0,
        _as_seconds_or_never,
    )
    yield Loop()
    yield ImportableSetting(
        "format_context", "Makes a string of the context of an error that the hub reports.", "pprint.saferepr"
    )
    yield Setting(
        "libev_backend",
        "Names of libev's pollers and flags, a list, or comma separated in the environment variable. They are checked "
        "when a hub is made, and choose nothing: the loop has one poller.",
        convert=_as_list,
        environment_key="GEVENT_BACKEND",
    )
    yield ImportableSetting(
        "fileobject",
        "The class `gevent.fileobject.FileObject`.",
        ["posix", "thread"],
        {
            "thread": "gevent.fileobject.FileObjectThread",
            "posix": "gevent.fileobject.FileObjectPosix",
            "block": "gevent.fileobject.FileObjectBlock",
        },
        "GEVENT_FILE",
    )
    yield Setting(
        "disable_watch_children",
        "True: `gevent.os` leaves child processes to the system's waitpid.",
        False,
        validate_bool,
        "GEVENT_NOWAITPID",
    )
    yield Setting(
        "trace_malloc", "Python's own tracing of allocations; without effect here.", False, _as_int, "PYTHONTRACEMALLOC"
    )
    yield Setting(
        "track_greenlet_tree",
        "True: a greenlet remembers who spawned it, from where, and shares `spawn_tree_locals` with it.",
        True,
        validate_bool,
        on_set=_greenrust.set_track_greenlet_tree,
    )
    yield Setting(
        "monitor_thread",
        "True: each hub starts a thread that reports when the event loop is blocked.",
        False,
        validate_bool,
        "GEVENT_MONITOR_THREAD_ENABLE",
    )
    yield Setting(
        "max_blocking_time",
        "Seconds that a greenlet may run without switching before the monitoring thread reports it.",
        0.1,
        _as_positive_float,
    )
    yield Setting(
        "print_blocking_reports",
        "True: the monitoring thread prints a report of a blocked event loop.",
        True,
        validate_bool,
        "GEVENT_MONITOR_PRINT_BLOCKING_REPORTS",
    )
    yield Setting(
        "memory_monitor_period",
        "Seconds between two looks of the monitoring thread at the memory usage.",
        5,
        _as_positive_float,
        "GEVENT_MONITOR_MEMORY_PERIOD",
    )
    yield Setting(
        "max_memory_usage",
        "Bytes of memory above which the monitoring thread emits an event; in the environment variable with a "
        "suffix kb, mb or gb.",
        None,
        _as_bytes,
        "GEVENT_MONITOR_MEMORY_MAX",
    )
    for name in ("flags", "timeout", "tries", "ndots", "udp_port", "tcp_port", "servers"):
        yield Setting(
            "ares_" + name,
            f"The argument `{name}` of `gevent.resolver.ares.Resolver`.",
            environment_key="GEVENTARES_" + name.upper(),
        )
    yield Setting(
        "resolver_nameservers",
        "Addresses of the name servers that the resolvers other than `thread` and `block` ask; a list, or comma "
        "separated in the environment variable.",
        convert=_as_list,
    )
    yield Setting(
        "resolver_timeout",
        "Seconds that the resolvers other than `thread` and `block` spend on a look-up.",
        convert=_as_positive_float,
    )
    yield Setting(
        "stack_size",
        "Bytes of stack of a greenlet made from now on; in the environment variable with a suffix kb, mb or gb. "
        "Not a setting of the original gevent.",
        None,
        _as_bytes,
        on_set=_set_stack_size,
    )


class Config:
    """The settings as attributes; the one instance is `gevent.config`.

    Reading or assigning an unknown name raises AttributeError; assigning a value that the setting cannot have raises
    ValueError, TypeError or ImportError.
    """

    settings: dict[str, Setting]

    def __init__(self) -> None:
        object.__setattr__(self, "settings", {setting.name: setting for setting in _make_settings()})

    def _unknown(self, name: str) -> Never:
        raise AttributeError(f"No configuration setting for: {name!r}")

    def __getattr__(self, name: str) -> Any:
        setting = self.settings.get(name)
        return setting.get() if setting is not None else self._unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def set(self, name: str, value: Any) -> None:
        """Assign *value* to the setting *name*."""
        setting = self.settings.get(name)
        if setting is None:
            self._unknown(name)
        setting.set(value)

    def __dir__(self) -> list[str]:
        return list(self.settings)

    def print_help(self) -> None:
        """Print every setting with its description, default and environment variable."""
        for name, setting in self.settings.items():
            print(name)
            print(textwrap.indent(setting.help(), "    "))
            print()


config = Config()
# The native module has to know what the environment says before the first greenlet is made.
_set_stack_size(config.stack_size)
_greenrust.set_track_greenlet_tree(config.track_greenlet_tree)


if __name__ == "__main__":
    config.print_help()
