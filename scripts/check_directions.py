#!/usr/bin/env python3
"""Check the directions of ARCHITECTURE.md: who may import, name and do what.

Usage: check_directions.py [ROOT]     exits with 1 and one line per violation

Rust: a tier of the runtime crate imports only lower tiers, or its own without a cycle; only `context.rs` names
corosensei; only `thread_state/` names PyThreadState; a file without unsafe code forbids it, and a file with unsafe code
is listed below. Python: no import cycle between modules, no import inside a function to dodge one, no
module named for nothing in particular. Everywhere: no path of one developer's machine.

The check reads source text, not the compiler's view: macros that build paths are not seen.
"""
import ast
import re
import sys
from pathlib import Path

RUNTIME = "crates/greenrust/src"
BINDING = "crates/greenrust-python/src"
PACKAGE = "python/gevent"

# Top-level modules of the runtime crate, lowest tier first.
TIERS: list[set[str]] = [
    {"sys", "stack", "context", "clock", "timers"},
    {"hub"},
    {"greenlet", "timeout", "local", "wait_queue", "cancel_scope"},
    {"event", "lock", "queue", "channel", "socket", "select", "signal", "thread_pool", "process", "resolver", "http",
     "websocket"},
    {"pool", "server", "http_server", "task_group"},
]

# Files that may contain unsafe code, with what they need it for.
UNSAFE_FILES: dict[str, str] = {
    f"{RUNTIME}/context.rs": "switches stacks",
    f"{RUNTIME}/hub/io.rs": "borrows raw descriptors of the caller",
    f"{RUNTIME}/hub/mod.rs": "the hub of the thread, reached by a thread-local pointer",
    f"{RUNTIME}/hub/raw.rs": "reference-counted greenlets that know their hub",
    f"{RUNTIME}/sys/fault.rs": "a signal handler on an alternate stack",
    f"{RUNTIME}/sys/interfaces.rs": "a list that the C library makes",
    f"{RUNTIME}/sys/memory.rs": "maps and unmaps stacks",
    f"{BINDING}/c_interface.rs": "functions that C extensions call, and the capsule that has their addresses",
    f"{BINDING}/fastcall.rs": "functions of the C calling convention, and their arguments",
    f"{BINDING}/socket/address.rs": "the system's structures for addresses",
    f"{BINDING}/socket/arguments.rs": "vector calls, and the memory of Python buffers",
    f"{BINDING}/socket/class.rs": "a class made by the C API",
    f"{BINDING}/socket/connection.rs": "system calls on descriptors and addresses",
    f"{BINDING}/socket/life.rs": "slots of the class, and fields of _socket's struct",
    f"{BINDING}/socket/mod.rs": "fields of _socket's struct, and of ours behind it",
    f"{BINDING}/socket/timeout.rs": "getters of the C calling convention",
    f"{BINDING}/socket/transfer.rs": "system calls on memory that Python owns",
    f"{BINDING}/socket/wait.rs": "the hubs that have a socket registered, by raw pointers",
    f"{BINDING}/gil.rs": "Sync for what the GIL guards",
    f"{BINDING}/greenlet/class.rs": "the interpreter's guard of recursive reprs",
    f"{BINDING}/greenlet/links.rs": "the hub's call, in which the GIL is known to be held",
    f"{BINDING}/greenlet/mod.rs": "the hub of a greenlet, and a name that is read in a signal handler",
    f"{BINDING}/greenlet/running.rs": "owned object pointers, and a call of the interpreter's",
    f"{BINDING}/greenlet/spawning.rs": "a method that CPython calls with borrowed pointers",
    f"{BINDING}/host.rs": "the current greenlet of the thread, as a borrowed pointer",
    f"{BINDING}/hub.rs": "thread-local pointers to the hub object",
    f"{BINDING}/local.rs": "descriptors called by their slots, and the dictionary that was used last",
    f"{BINDING}/queue.rs": "a store that knows the queue object which it is a part of",
    f"{BINDING}/nesting.rs": "the reference count and kind of an object",
    f"{BINDING}/other_greenlet.rs": "the dictionary of a class that does not allow changes",
    f"{BINDING}/loop_/child.rs": "system calls on processes",
    f"{BINDING}/loop_/mod.rs": "the hub of the loop's thread, and Python inside the hub's calls",
    f"{BINDING}/loop_/rounds.rs": "the thread's book, by a thread-local pointer",
    f"{BINDING}/loop_/signal.rs": "a signal handler",
    f"{BINDING}/loop_/signal_wakeup.rs": "a pipe, and queries of the process",
    f"{BINDING}/lowlevel/class.rs": "a query of the interpreter's about an object",
    f"{BINDING}/lowlevel/deallocation.rs": "tp_dealloc, and objects that it brings back",
    f"{BINDING}/lowlevel/mod.rs": "objects found by the runtime's greenlets, and the hubs of these",
    f"{BINDING}/lowlevel/running.rs": "objects found by the runtime's greenlets",
    f"{BINDING}/lowlevel/switching.rs": "a method that CPython calls with borrowed pointers",
    f"{BINDING}/pywsgi/access_log.rs": "localtime_r, for the log's time of day",
    f"{BINDING}/pywsgi/connection/proxy_header.rs": "a system call on a buffer",
    f"{BINDING}/pywsgi/connection/reading.rs": "a system call on a buffer",
    f"{BINDING}/pywsgi/connection/sending.rs": "system calls on memory that Python owns, and on descriptors",
    f"{BINDING}/pywsgi/environ.rs": "a dictionary's value as a borrowed pointer",
    f"{BINDING}/pywsgi/handler/mod.rs": "the bytes of a Python buffer",
    f"{BINDING}/pywsgi/handler/running.rs": "the exception that is being handled",
    f"{BINDING}/pywsgi/input.rs": "copies into a Python buffer",
    f"{BINDING}/pywsgi/references.rs": "reference counts, and whether an object has weak references",
    f"{BINDING}/pywsgi/stock.rs": "the version of a class, and the dictionary of an object",
    f"{BINDING}/pywsgi/text.rs": "reads and makes strings in CPython's own representation",
    f"{BINDING}/spawn_tree.rs": "walks frames by the C API",
    f"{BINDING}/thread_state/mod.rs": "the fields of PyThreadState, by the C shim",
    f"{BINDING}/tracer.rs": "the hub of the thread that is watched",
    f"{BINDING}/timeout.rs": "timers of the hub, by a raw pointer",
}

# (importing module, imported module): why the import is inside a function.
LATE_IMPORTS: dict[tuple[str, str], str] = {
    ("gevent.hub", "gevent._monitor"): "doubles the time that importing gevent takes, and few programs want it",
}

NAMELESS = {"utils", "util_", "common", "compat", "helpers", "misc", "_utils", "_common", "_compat"}

MACHINE_PATH = re.compile(r"(?<![\w.:/~$}>-])/(?:root|work|home/\w+|Users/\w+)(?:/|\b(?![\w.-]))")
TEXT_SUFFIXES = {".rs", ".c", ".h", ".py", ".pyi", ".toml", ".md", ".sh", ".txt", ".yml", ".yaml", ""}
SKIPPED_FOLDERS = {".git", "target", "dist", "build", "__pycache__"}


# -- Rust -------------------------------------------------------------------------------------------------

RUST_TOKEN = re.compile(
    r"""
      (?P<comment> //[^\n]* )
    | (?P<open> /\* )
    | (?P<raw> \b[bc]?r(?P<hashes>\#*)" )
    | (?P<string> [bc]?"(?:[^"\\]|\\.)*" )
    | (?P<char> b?'(?:[^'\\\n]|\\(?:u\{[^}]*\}|x[0-9a-fA-F]{2}|.))' )
    """,
    re.VERBOSE | re.DOTALL,
)


def rust_code(text: str) -> str:
    """Return `text` with comments and literals blanked out; line numbers stay."""
    out = []
    position = 0

    def blank(piece: str) -> str:
        return re.sub(r"[^\n]", " ", piece)

    while match := RUST_TOKEN.search(text, position):
        start, end = match.span()
        if match["open"]:
            depth = 1
            while depth and (edge := re.compile(r"/\*|\*/").search(text, end)):
                depth += 1 if edge[0] == "/*" else -1
                end = edge.end()
        elif match["raw"]:
            close = text.find('"' + match["hashes"], end)
            end = len(text) if close < 0 else close + 1 + len(match["hashes"])
        out.append(text[position:start])
        out.append(blank(text[start:end]))
        position = end
    out.append(text[position:])
    return "".join(out)


def without_test_modules(code: str) -> str:
    """Return `code` without its `#[cfg(test)] mod ... { ... }`: tests may use what stands above their module."""
    pattern = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{")
    while match := pattern.search(code):
        depth, end = 1, match.end()
        while depth and end < len(code):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        code = code[: match.start()] + re.sub(r"[^\n]", " ", code[match.start() : end]) + code[end:]
    return code


def first_names(code: str, position: int) -> list[str]:
    """Return the names that can follow `crate::` at `position`: one, or those of a group `{a::x, b}`."""
    if match := re.compile(r"\s*(?:r#)?(\w+)").match(code, position):
        return [match[1]]
    if not (match := re.compile(r"\s*\{").match(code, position)):
        return []
    names, depth, end = [], 1, match.end()
    expecting = True
    while depth and end < len(code):
        character = code[end]
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        elif character == "," and depth == 1:
            expecting = True
        elif expecting and depth == 1 and (name := re.compile(r"(?:r#)?(\w+)").match(code, end)):
            names.append(name[1])
            expecting = False
            end = name.end()
            continue
        end += 1
    return names


def runtime_uses(module_path: list[str], code: str) -> list[tuple[str, int]]:
    """Return (top-level module, line) for each path of `code` that starts at the crate's root.

    `module_path` is the module of the file, as in ["hub", "park"]; `super::` is followed from there.
    """
    found = []
    for match in re.finditer(r"(?<![\w:])(?:crate|(?P<supers>super(?:\s*::\s*super)*))\s*::", code):
        if match["supers"] and match["supers"].count("super") != len(module_path):
            continue
        line = code.count("\n", 0, match.start()) + 1
        found.extend((name, line) for name in first_names(code, match.end()))
    return found


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return the nodes of one cycle of `graph`, its first node repeated at the end, or None."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for successor in sorted(graph.get(node, ())):
            if cycle := visit(successor, [*path, node]):
                return cycle
        done.add(node)
        return None

    for node in sorted(graph):
        if cycle := visit(node, []):
            return cycle
    return None


def check_tiers(root: Path) -> list[str]:
    """Check the imports of the runtime crate against TIERS."""
    tier_of = {name: tier for tier, names in enumerate(TIERS) for name in names}
    source = root / RUNTIME
    problems = []
    graph: dict[str, set[str]] = {}
    for path in sorted(source.rglob("*.rs")):
        parts = list(path.relative_to(source).with_suffix("").parts)
        if parts == ["lib"] or parts[0] == "bin":
            continue
        if parts[-1] == "mod":
            parts.pop()
        module, place = parts[0], path.relative_to(root)
        if module not in tier_of:
            problems.append(f"{place}: module {module} has no tier: add it to TIERS in scripts/check_directions.py")
            continue
        graph.setdefault(module, set())
        code = without_test_modules(rust_code(path.read_text(encoding="utf-8")))
        for name, line in runtime_uses(parts, code):
            if name not in tier_of or name == module:
                continue
            if tier_of[name] > tier_of[module]:
                problems.append(
                    f"{place}:{line}: {module} (tier {tier_of[module]}) imports {name} (tier {tier_of[name]})"
                )
            graph[module].add(name)
    if cycle := find_cycle(graph):
        problems.append(f"{RUNTIME}: import cycle: {' -> '.join(cycle)}")
    return problems


def holds_unsafe(module: Path) -> bool:
    """Tell whether a file below the folder of `module` is listed as unsafe: `forbid` would reach down to it."""
    return any(
        file.as_posix().endswith(listed) for file in module.parent.rglob("*.rs") for listed in UNSAFE_FILES
    )


def check_rust_names(root: Path) -> list[str]:
    """Check who names corosensei and PyThreadState, and that unsafe code stands only where it is listed."""
    problems = []
    with_unsafe = set()
    for path in sorted((root / "crates").rglob("*")):
        if path.suffix not in {".rs", ".c", ".h"} or "target" in path.parts:
            continue
        place = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        code = rust_code(text)
        for number, line in enumerate(code.splitlines(), 1):
            if re.search(r"\bcorosensei\b", line) and place != f"{RUNTIME}/context.rs":
                problems.append(f"{place}:{number}: only {RUNTIME}/context.rs names corosensei")
            # The type and its fields: functions such as PyThreadState_GetDict are the stable C API.
            if re.search(r"\b_?PyThreadState(?:Impl)?\b", line) and not place.startswith(f"{BINDING}/thread_state/"):
                problems.append(f"{place}:{number}: only {BINDING}/thread_state/ names PyThreadState")
        if path.suffix != ".rs" or "/src/" not in place:
            continue
        if re.search(r"\bunsafe\b", code):
            with_unsafe.add(place)
            if place not in UNSAFE_FILES:
                problems.append(f"{place}: has unsafe code and is not in UNSAFE_FILES of scripts/check_directions.py")
        elif path.name in ("lib.rs", "mod.rs") and holds_unsafe(path):
            continue
        elif not re.search(r"#!\[forbid\([^)]*\bunsafe_code\b", code):
            problems.append(f"{place}: has no unsafe code and does not say #![forbid(unsafe_code)]")
    problems.extend(
        f"UNSAFE_FILES lists {place}, which has no unsafe code" for place in sorted(set(UNSAFE_FILES) - with_unsafe)
    )
    return problems


# -- Python -----------------------------------------------------------------------------------------------


def module_name(package: Path, path: Path) -> str:
    """Return the dotted name of the file `path` within `package`."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(node: ast.Import | ast.ImportFrom, module: str, is_package: bool, known: set[str]) -> set[str]:
    """Return the modules of `known` that `node` imports, seen from `module`."""
    if isinstance(node, ast.Import):
        candidates = [alias.name for alias in node.names]
    else:
        base = node.module or ""
        if node.level:
            parents = module.split(".")
            parents = parents[: len(parents) - (node.level - (1 if is_package else 0))]
            base = ".".join([*parents, base] if base else parents)
        candidates = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
    return {name for name in candidates if name in known}


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether `node` is an `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.Module) -> tuple[list[ast.AST], list[ast.AST]]:
    """Return the import nodes that run with the module, and those that run inside a function."""
    at_module: list[ast.AST] = []
    in_function: list[ast.AST] = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            (in_function if inside else at_module).append(node)
            return
        if is_type_checking(node):
            for child in node.orelse:
                visit(child, inside)
            return
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return at_module, in_function


def check_python(root: Path) -> list[str]:
    """Check the imports and the module names of the Python package."""
    package = root / PACKAGE
    files = {module_name(package, path): path for path in sorted(package.rglob("*.py"))}
    known = set(files) | {"gevent._greenrust"}
    graph: dict[str, set[str]] = {}
    problems = []
    used_late_imports = set()
    for module, path in files.items():
        place = path.relative_to(root)
        if path.stem in NAMELESS:
            problems.append(f"{place}: a module is named for its concept, not {path.stem}")
        at_module, in_function = imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        is_package = path.stem == "__init__"
        graph[module] = set()
        for node in at_module:
            graph[module] |= imported_modules(node, module, is_package, known) - {module}
        for node in in_function:
            for imported in imported_modules(node, module, is_package, known):
                if (module, imported) in LATE_IMPORTS:
                    used_late_imports.add((module, imported))
                else:
                    problems.append(f"{place}:{node.lineno}: imports {imported} inside a function")
    if cycle := find_cycle(graph):
        problems.append(f"{PACKAGE}: import cycle: {' -> '.join(cycle)}")
    problems.extend(
        f"LATE_IMPORTS lists {module} -> {imported}, which is not there"
        for module, imported in sorted(set(LATE_IMPORTS) - used_late_imports)
    )
    return problems


# -- everywhere -------------------------------------------------------------------------------------------


def check_paths(root: Path) -> list[str]:
    """Check that no text file names a path of one developer's machine."""
    problems = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part in SKIPPED_FOLDERS or part.startswith(".venv") or part.endswith("_cache") for part in parts):
            continue
        if path.suffix not in TEXT_SUFFIXES or not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if match := MACHINE_PATH.search(line):
                problems.append(f"{Path(*parts)}:{number}: names a path of one machine: {match[0]}")
    return problems


def check(root: Path) -> list[str]:
    """Return every violation found under `root`, one line each."""
    return [*check_tiers(root), *check_rust_names(root), *check_python(root), *check_paths(root)]


if __name__ == "__main__":
    found = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    print("\n".join(found) if found else "check_directions: every direction holds")
    sys.exit(1 if found else 0)
