"""What was patched: the originals, by module and name."""
import sys
from collections.abc import Iterable
from typing import Any

#: module name -> {attribute: the object that was there before}.
saved: dict[str, dict[str, Any]] = {}

#: Whether `multiprocessing` is changed, or will be when it is imported.
is_multiprocessing_patched = False


def save(module_name: str, attribute: str, original: Any) -> None:
    """Remember *original*, unless an earlier one is known."""
    saved.setdefault(module_name, {}).setdefault(attribute, original)


def is_module_patched(mod_name: str) -> bool:
    """Return True when something of the module *mod_name* was patched."""
    return mod_name in saved


def is_object_patched(mod_name: str, item_name: str) -> bool:
    """Return True when *item_name* of the module *mod_name* was patched."""
    return item_name in saved.get(mod_name, ())


def is_anything_patched() -> bool:
    """Return True when something was patched in this process."""
    return bool(saved)


def originals(module_name: str, names: Iterable[str]) -> list[Any]:
    """Return the original objects of *names*; those that were not patched are taken from the module."""
    known = saved.get(module_name, {})
    found = []
    for name in names:
        if name in known:
            found.append(known[name])
        else:
            __import__(module_name)
            found.append(getattr(sys.modules[module_name], name))
    return found
