"""Events that tell of patching and of monitoring.

Whoever wants to know adds a function to `subscribers` (the list of zope.event); it is called with each event. Each
kind of event has an interface of zope.interface and, where it says so, a group of entry points that are called too.
"""
from importlib import metadata
from typing import Any

from zope.event import notify, subscribers
from zope.interface import Attribute, Interface, implementer

__all__ = [
    "subscribers",
    "IEventLoopBlocked",
    "EventLoopBlocked",
    "IMemoryUsageThresholdExceeded",
    "MemoryUsageThresholdExceeded",
    "IMemoryUsageUnderThreshold",
    "MemoryUsageUnderThreshold",
    "IPeriodicMonitorThread",
    "IPeriodicMonitorThreadStartedEvent",
    "PeriodicMonitorThreadStartedEvent",
    "IGeventPatchEvent",
    "GeventPatchEvent",
    "IGeventWillPatchEvent",
    "DoNotPatch",
    "GeventWillPatchEvent",
    "IGeventDidPatchEvent",
    "IGeventWillPatchModuleEvent",
    "GeventWillPatchModuleEvent",
    "IGeventDidPatchModuleEvent",
    "GeventDidPatchModuleEvent",
    "IGeventWillPatchAllEvent",
    "GeventWillPatchAllEvent",
    "IGeventDidPatchBuiltinModulesEvent",
    "GeventDidPatchBuiltinModulesEvent",
    "IGeventDidPatchAllEvent",
    "GeventDidPatchAllEvent",
]


def notify_and_call_entry_points(event: Any) -> None:
    """Tell the subscribers of *event*, then the plug-ins that are installed for its kind."""
    notify(event)
    for entry_point in metadata.entry_points(group=event.ENTRY_POINT_NAME):
        entry_point.load()(event)


# -- monitoring ---------------------------------------------------------------------------------------------


class IPeriodicMonitorThread(Interface):
    """The thread that watches a hub."""

    def add_monitoring_function(function, period):
        """Call *function* with the hub about every *period* seconds; None stops calling it."""


class IPeriodicMonitorThreadStartedEvent(Interface):
    """A monitoring thread was started; functions can be added to it."""

    monitor = Attribute("The monitoring thread, an IPeriodicMonitorThread.")


@implementer(IPeriodicMonitorThreadStartedEvent)
class PeriodicMonitorThreadStartedEvent:
    """A monitoring thread was started."""

    ENTRY_POINT_NAME = "gevent.plugins.hub.periodic_monitor_thread_started"

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor


class IEventLoopBlocked(Interface):
    """A greenlet ran for long without switching. Sent in the monitoring thread."""

    greenlet = Attribute("The greenlet that runs.")
    blocking_time = Attribute("About how long, in seconds.")
    info = Attribute("A list of lines that describe it; may be changed before it is printed.")
    hub = Attribute("The hub that is blocked, or None.")


@implementer(IEventLoopBlocked)
class EventLoopBlocked:
    """A greenlet ran for long without switching."""

    def __init__(self, greenlet: Any, blocking_time: float, info: list[str], *, hub: Any = None) -> None:
        self.greenlet = greenlet
        self.blocking_time = blocking_time
        self.info = info
        self.hub = hub


class IMemoryUsageThresholdExceeded(Interface):
    """The process uses more memory than `max_memory_usage`. Sent in the monitoring thread."""

    mem_usage = Attribute("The memory in use, in bytes.")
    max_allowed = Attribute("The limit, in bytes.")
    memory_info = Attribute("What psutil says of the process.")


class IMemoryUsageUnderThreshold(Interface):
    """The process uses less memory than `max_memory_usage` again. Sent in the monitoring thread."""

    mem_usage = Attribute("The memory in use, in bytes.")
    max_allowed = Attribute("The limit, in bytes.")
    max_memory_usage = Attribute("The memory that was in use when the limit was exceeded, in bytes.")
    memory_info = Attribute("What psutil says of the process.")


class _MemoryEvent:
    def __init__(self, mem_usage: int, max_allowed: int, memory_info: Any) -> None:
        self.mem_usage = mem_usage
        self.max_allowed = max_allowed
        self.memory_info = memory_info

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} used={self.mem_usage} max={self.max_allowed} details={self.memory_info!r}>"
        )


@implementer(IMemoryUsageThresholdExceeded)
class MemoryUsageThresholdExceeded(_MemoryEvent):
    """The process uses more memory than it should."""


@implementer(IMemoryUsageUnderThreshold)
class MemoryUsageUnderThreshold(_MemoryEvent):
    """The process uses no more memory than it should again."""

    def __init__(self, mem_usage: int, max_allowed: int, memory_info: Any, max_usage: int) -> None:
        super().__init__(mem_usage, max_allowed, memory_info)
        self.max_memory_usage = max_usage


# -- patching -----------------------------------------------------------------------------------------------


class IGeventPatchEvent(Interface):
    """Something about patching."""

    source = Attribute("What the patches come from.")
    target = Attribute("What is patched.")


@implementer(IGeventPatchEvent)
class GeventPatchEvent:
    """Base of the events about patching."""

    def __init__(self, source: Any, target: Any) -> None:
        self.source = source
        self.target = target

    def __repr__(self) -> str:
        return f"<{type(self).__name__} source={self.source!r} target={self.target!r} at {id(self):x}>"


class IGeventWillPatchEvent(IGeventPatchEvent):
    """Sent before patching; a subscriber may raise DoNotPatch."""


class DoNotPatch(BaseException):
    """Raised by a subscriber of a "will patch" event: that patch is not to be made."""


@implementer(IGeventWillPatchEvent)
class GeventWillPatchEvent(GeventPatchEvent):
    """Base of the events before patching."""


class IGeventDidPatchEvent(IGeventPatchEvent):
    """Sent after patching."""


@implementer(IGeventDidPatchEvent)
class GeventDidPatchEvent(GeventPatchEvent):
    """Base of the events after patching."""


class IGeventWillPatchModuleEvent(IGeventWillPatchEvent):
    """Sent before a module is patched."""

    module_name = Attribute("The name of the module.")
    target_item_names = Attribute("The names that will be patched; may be changed.")


@implementer(IGeventWillPatchModuleEvent)
class GeventWillPatchModuleEvent(GeventWillPatchEvent):
    """A module is about to be patched."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.will_patch_module"

    def __init__(self, module_name: str, source: Any, target: Any, items: Any) -> None:
        super().__init__(source, target)
        self.module_name = module_name
        self.target_item_names = items


class IGeventDidPatchModuleEvent(IGeventDidPatchEvent):
    """Sent after a module was patched."""

    module_name = Attribute("The name of the module.")


@implementer(IGeventDidPatchModuleEvent)
class GeventDidPatchModuleEvent(GeventDidPatchEvent):
    """A module was patched."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_module"

    def __init__(self, module_name: str, source: Any, target: Any) -> None:
        super().__init__(source, target)
        self.module_name = module_name


class IGeventWillPatchAllEvent(IGeventWillPatchEvent):
    """Sent before `patch_all` does anything."""

    patch_all_arguments = Attribute("A copy of the arguments of patch_all that gevent knows.")
    patch_all_kwargs = Attribute("A copy of its other keyword arguments.")

    def will_patch_module(module_name):
        """Return whether the module *module_name* will be patched."""


class _PatchAllEvent:
    def __init__(self, patch_all_arguments: dict[str, Any], patch_all_kwargs: dict[str, Any]) -> None:
        super().__init__(None, None)  # type: ignore[call-arg]
        self._patch_all_arguments = patch_all_arguments
        self._patch_all_kwargs = patch_all_kwargs

    @property
    def patch_all_arguments(self) -> dict[str, Any]:
        """A copy of the arguments of patch_all that gevent knows."""
        return self._patch_all_arguments.copy()

    @property
    def patch_all_kwargs(self) -> dict[str, Any]:
        """A copy of its other keyword arguments."""
        return self._patch_all_kwargs.copy()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._patch_all_arguments!r} at {id(self):x}>"


@implementer(IGeventWillPatchAllEvent)
class GeventWillPatchAllEvent(_PatchAllEvent, GeventWillPatchEvent):
    """`patch_all` is about to begin."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.will_patch_all"

    def will_patch_module(self, module_name: str) -> Any:
        """Return whether the module *module_name* will be patched."""
        return self._patch_all_arguments.get(module_name)


class IGeventDidPatchBuiltinModulesEvent(IGeventDidPatchEvent):
    """Sent after `patch_all` has patched the standard library."""

    patch_all_arguments = Attribute("A copy of the arguments of patch_all that gevent knows.")
    patch_all_kwargs = Attribute("A copy of its other keyword arguments.")


@implementer(IGeventDidPatchBuiltinModulesEvent)
class GeventDidPatchBuiltinModulesEvent(_PatchAllEvent, GeventDidPatchEvent):
    """`patch_all` has patched the standard library."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_builtins"


class IGeventDidPatchAllEvent(IGeventDidPatchEvent):
    """Sent when `patch_all` is done."""


@implementer(IGeventDidPatchAllEvent)
class GeventDidPatchAllEvent(_PatchAllEvent, GeventDidPatchEvent):
    """`patch_all` is done."""

    ENTRY_POINT_NAME = "gevent.plugins.monkey.did_patch_all"
