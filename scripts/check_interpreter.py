#!/usr/bin/env python3
"""Exit with a clear message when this interpreter cannot build and run greenrust.

Needed: CPython >= 3.11 with the global interpreter lock, its headers, and the venv module.
"""
import importlib.util
import os
import sys
import sysconfig


def problems() -> list[str]:
    """Return what is missing, one sentence each."""
    found = []
    if sys.implementation.name != "cpython":
        found.append(f"CPython is needed, this is {sys.implementation.name}")
    if sys.version_info < (3, 11):  # noqa: UP036 - this script is what reports it
        found.append(f"CPython 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        found.append("free-threaded builds are not supported")
    headers = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(headers):
        found.append(f"the headers are missing ({headers}): install the interpreter's development package")
    if importlib.util.find_spec("ensurepip") is None:
        found.append("the module ensurepip is missing: install the interpreter's venv package")
    return found


if __name__ == "__main__":
    missing = problems()
    for sentence in missing:
        print(f"{sys.executable}: {sentence}", file=sys.stderr)
    sys.exit(1 if missing else 0)
