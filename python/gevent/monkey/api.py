"""The building blocks of patching, for those who patch modules of their own."""
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gevent import events
from gevent.monkey import _repair, _state, _warnings
from gevent.monkey._errors import BadImplements

__all__ = ["get_original", "patch_item", "patch_module", "remove_item"]

_MISSING = object()


def get_original(mod_name: str | Sequence[str], item_name: str | Sequence[str]) -> Any:
    """Return what *item_name* of the module *mod_name* was before patching; the object itself if it was not patched.

    With a sequence of module names, the first that can be imported counts; with a sequence of item names, a list is
    returned.
    """
    module_names = [mod_name] if isinstance(mod_name, str) else list(mod_name)
    item_names = [item_name] if isinstance(item_name, str) else list(item_name)
    for module_name in module_names:
        try:
            found = _state.originals(module_name, item_names)
        except ImportError:
            if module_name is module_names[-1]:
                raise
            continue
        return found[0] if isinstance(item_name, str) else found
    raise ImportError("no module named")


def patch_item(module: Any, attr: str, newitem: Any) -> None:
    """Set *attr* of *module* to *newitem*, keeping the original for `get_original`."""
    old = getattr(module, attr, _MISSING)
    if old is not _MISSING:
        _state.save(module.__name__, attr, old)
    setattr(module, attr, newitem)


def remove_item(module: Any, attr: str) -> None:
    """Delete *attr* of *module* if it is there, keeping the original for `get_original`."""
    old = getattr(module, attr, _MISSING)
    if old is not _MISSING:
        _state.save(module.__name__, attr, old)
        delattr(module, attr)


class PatchRequest:
    """One module to patch; given to a source module's `_gevent_do_monkey_patch` if it has one."""

    get_original = staticmethod(get_original)

    def __init__(self, target_module: ModuleType, source_module: Any, items: Any,
                 patch_kwargs: dict[str, Any] | None) -> None:
        self.target_module = target_module
        self.source_module = source_module
        self.items = items
        self.patch_kwargs = patch_kwargs or {}
        self._exchanges: dict[int, tuple[Any, Any]] = {}

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} target={self.target_module!r} source={self.source_module!r} "
            f"items={self.items!r} kwargs={self.patch_kwargs!r}>"
        )

    def patch(self, name: str) -> None:
        """Replace *name* of the target by the source's, there and in the modules that have taken it already."""
        new = getattr(self.source_module, name)
        old = getattr(self.target_module, name, None)
        if _repair.may_stay(old):
            return
        patch_item(self.target_module, name, new)
        if callable(old) and old is not new:
            self._exchanges[id(old)] = (old, new)

    def default_patch_items(self) -> None:
        """Replace all items."""
        for name in self.items:
            self.patch(name)

    def patch_attribute(self, owner: Any, attribute: str, value: Any) -> None:
        """Set *attribute* of the class *owner*, which stays the same class for whoever has it."""
        setattr(owner, attribute, value)

    def save(self, name: str, original: Any) -> None:
        """Count *name* of the target as patched."""
        _state.save(self.target_module.__name__, name, original)

    def remove_item(self, target_module: Any, *items: str) -> None:
        """Delete *items* of *target_module*, or (given names only) of the target."""
        if isinstance(target_module, str):
            items = (target_module, *items)
            target_module = self.target_module
        for name in items:
            remove_item(target_module, name)

    def repair(self) -> list[type]:
        """Exchange what was taken before; returns classes that cannot be repaired."""
        if self._exchanges:
            _repair.exchange_references(self.target_module.__name__, self._exchanges)
        lost: list[type] = []
        for old, new in self._exchanges.values():
            if isinstance(old, type):
                for kind in _repair.derived_classes(old):
                    if not (isinstance(new, type) and _repair.derive_anew(kind, old, new)):
                        lost.append(kind)
        return lost


def notify(event: Any, warnings: list[str] | None = None) -> None:
    """Tell subscribers and plug-ins of *event*."""
    event._warnings = warnings
    events.notify_and_call_entry_points(event)


def _call_hook(source_module: Any, name: str, target_module: Any, items: Any, warnings: list[str] | None) -> None:
    hook = getattr(source_module, f"_gevent_{name}_monkey_patch", None)
    if hook is not None:
        hook(target_module, items, lambda message: _warnings.queue(message, warnings))


def patch_module(target_module: ModuleType, source_module: Any, items: Any = None, _warnings: list[str] | None = None,
                 _patch_kwargs: dict[str, Any] | None = None, _notify_will_subscribers: bool = True,
                 _notify_did_subscribers: bool = True, _call_hooks: bool = True) -> bool:
    """Replace names of *target_module* by those of *source_module*.

    *items* are the names, by default the source's `__implements__`. The source may have the functions
    `_gevent_will_monkey_patch(target_module, items, warn)` and `_gevent_did_monkey_patch` (the same), called before
    and after, and `_gevent_do_monkey_patch(request)`, which does the patching itself. Modules that have taken a
    replaced object before are repaired. Returns False when a hook or a subscriber raised `DoNotPatch`.
    """
    if items is None:
        items = getattr(source_module, "__implements__", None)
        if items is None:
            raise BadImplements(source_module)
    try:
        if _call_hooks:
            _call_hook(source_module, "will", target_module, items, _warnings)
        if _notify_will_subscribers:
            notify(
                events.GeventWillPatchModuleEvent(target_module.__name__, source_module, target_module, items),
                _warnings,
            )
    except events.DoNotPatch:
        return False
    request = PatchRequest(target_module, source_module, items, _patch_kwargs)
    do_patch = getattr(source_module, "_gevent_do_monkey_patch", None)
    if do_patch is None:
        request.default_patch_items()
    else:
        do_patch(request)
    lost = request.repair()
    if lost and target_module.__name__ != "_thread":
        # `threading` has the same classes, and programs derive from them under its name.
        _tell_lost(target_module.__name__, lost, _warnings)
    if _call_hooks:
        _call_hook(source_module, "did", target_module, items, _warnings)
    if _notify_did_subscribers:
        notify(events.GeventDidPatchModuleEvent(target_module.__name__, source_module, target_module))
    return True


def _tell_lost(module_name: str, classes: list[type], messages: list[str] | None) -> None:
    names = ", ".join(sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in classes))
    _warnings.queue(
        f"Monkey-patching {module_name} came after these classes were derived from what it replaces, so they still "
        f"block the thread; patch earlier: {names}",
        messages,
    )
