"""Calls functions once a module is imported: to change modules that few programs need, without importing them."""
import importlib.util as _util
import sys as _sys
import types as _types
from collections.abc import Callable
from typing import Any

_waiting: dict[str, Callable[[Any], Any]] = {}


def when_imported(name: str, function: Callable[[Any], Any]) -> None:
    """Call *function* with the module *name*: now if it was imported before, else when it has been."""
    module = _sys.modules.get(name)
    if module is not None:
        function(module)
        return
    _waiting[name] = function
    if _finder not in _sys.meta_path:
        _sys.meta_path.insert(0, _finder)


class _Finder:
    """Finds nothing by itself: has the loader that others find call what waits for its module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        function = _waiting.pop(name, None)
        if function is None:
            return None
        if not _waiting:
            _sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = _util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: _types.ModuleType) -> None:
            # One loader may serve many modules, as that of a zip file.
            if module.__name__ != name:
                load(module)
                return
            del loader.exec_module
            load(module)
            function(module)

        loader.exec_module = exec_module
        return spec


_finder: Any = _Finder()
