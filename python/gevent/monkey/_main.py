"""The command `python -m gevent.monkey`."""
import inspect
import os
import pprint
import runpy
import sys
from typing import Any

from gevent.monkey import _doctor


def usage(patch_all: Any, modules: list[str]) -> str:
    """Return the help text."""
    options = ", ".join(f"--[no-]{name}" for name in modules)
    return (
        "gevent.monkey - monkey patch the standard modules to use gevent.\n\n"
        "USAGE: python -m gevent.monkey [MONKEY OPTIONS] [--module] (script|module) [SCRIPT OPTIONS]\n\n"
        "Runs a script (a path as `python` takes it) or, with --module, a module, after patch_all(). --no-NAME leaves\n"
        "NAME unpatched; with --NAME only what is named is patched.\n\n"
        f"MONKEY OPTIONS: --verbose {options}\n\n"
        "       python -m gevent.monkey --check script [SCRIPT OPTIONS]\n\n"
        "Runs a script that patches by itself until it has, and reports what was imported and made before, what was\n"
        "repaired and what could not be. Exits with 1 if something could not."
    )


def run(patch_all: Any, modules: list[str]) -> Any:
    """Interpret `sys.argv`, patch, and run the script; returns its globals."""
    names = list(inspect.signature(patch_all).parameters)
    arguments: dict[str, bool] = {}
    argv = sys.argv[1:]
    verbose = False
    run_function = runpy.run_path
    check = False
    while argv and argv[0].startswith("--"):
        option = argv.pop(0)[2:]
        if option == "check":
            check = True
            continue
        if option == "verbose":
            verbose = True
        elif option == "module":
            run_function = runpy.run_module
        elif option.startswith("no-") and option[3:] in names:
            arguments[option[3:]] = False
        elif option in names:
            arguments[option] = True
            if option in modules:
                for module in modules:
                    arguments.setdefault(module, False)
        else:
            sys.exit(f"{usage(patch_all, modules)}\n\nCannot patch {option!r}")
    if verbose:
        print("gevent.monkey.patch_all({})".format(", ".join(f"{k}={v}" for k, v in arguments.items())))
        print("sys.version={}".format(sys.version.replace("\n", " ")))
        print(f"sys.path={pprint.pformat(sys.path)}")
        print(f"sys.modules={pprint.pformat(sorted(sys.modules))}")
        print(f"cwd={os.getcwd()}")
    if not argv:
        print(usage(patch_all, modules))
        return None
    sys.argv[:] = argv
    if check:
        return _check(argv[0])
    patch_all(**arguments)
    return run_function(argv[0], run_name="__main__")


def _check(path: str) -> Any:
    """Run a script that patches by itself, until it has."""
    if not os.path.isfile(path):
        sys.exit(f"{usage(None, [])}\n\n{path!r} is not a file")
    _doctor.begin(path)
    # As `python path` has it.
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    runpy.run_path(path, run_name="__main__")
    sys.exit(f"{path}: never calls patch_all(): run it by `python -m gevent.monkey {path}`, or call it first of all")
