"""The direction check finds each kind of violation and is silent on a good tree."""
import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.ours_only("tests a script of this project, not gevent")

REPOSITORY = Path(__file__).resolve().parent.parent
FORBID = "#![forbid(unsafe_code)]\n"


@pytest.fixture
def directions(monkeypatch):
    specification = importlib.util.spec_from_file_location(
        "check_directions", REPOSITORY / "scripts" / "check_directions.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "UNSAFE_FILES", {})
    monkeypatch.setattr(module, "LATE_IMPORTS", {})
    return module


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes {path: text} below a folder and returns the folder."""

    def write(files):
        for place, text in files.items():
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def runtime(**modules):
    return {f"crates/greenrust/src/{name.replace('__', '/')}.rs": FORBID + text for name, text in modules.items()}


def test_good_tree_has_no_violation(directions, tree):
    root = tree(
        {
            **runtime(
                timers="use std::time::Duration;",
                context="use corosensei::Coroutine;",
                hub__mod="pub mod park;\nuse crate::timers::Timers;",
                hub__park="use super::io;\nuse crate::{clock::Clock, stack};",
                event="use crate::{hub::{self, park}, wait_queue};",
                clock="",
                lib="pub use event::Event;",
            ),
            "crates/greenrust-python/src/thread_state/mod.rs": FORBID + "type T = PyThreadState;",
            "python/gevent/__init__.py": "from gevent import event\nfrom gevent.hub import get_hub\n",
            "python/gevent/event.py": "from gevent._greenrust import Event\n",
            "python/gevent/hub.py": "import os\nfrom . import event\n",
            "README.md": "See https://example.org/work/x and docs/root/y.\n",
        }
    )
    assert directions.check(root) == []


@pytest.mark.parametrize(
    "source",
    [
        "use crate::hub::park;",
        "use crate::{clock, hub::park};",
        "use crate::{\n    clock,\n    hub,\n};",
        "fn f() { crate::hub::park() }",
        "use super::hub;",
        "pub(crate) use crate :: hub;",
    ],
)
def test_lower_tier_must_not_import_a_higher_one(directions, tree, source):
    root = tree(runtime(timers=source, hub__mod="", clock=""))
    problems = directions.check_tiers(root)
    assert len(problems) == 1
    assert "timers (tier 0) imports hub (tier 1)" in problems[0]


def test_super_in_a_nested_file_is_followed_to_the_root(directions, tree):
    root = tree(runtime(hub__park="use super::super::event;\nuse super::event;", event=""))
    problems = directions.check_tiers(root)
    assert [problem for problem in problems if "tier" in problem] == [
        "crates/greenrust/src/hub/park.rs:2: hub (tier 1) imports event (tier 3)"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "// use crate::hub;",
        "/* use crate::hub; /* nested */ use crate::hub; */",
        'const S: &str = "use crate::hub;";',
        'const S: &str = r#"use "crate::hub";"#;',
        "#[cfg(test)]\nmod tests {\n    use crate::hub;\n}",
    ],
)
def test_comments_literals_and_test_modules_are_not_imports(directions, tree, source):
    assert directions.check_tiers(tree(runtime(timers=source, hub__mod=""))) == []


def test_cycle_within_a_tier_is_found(directions, tree):
    root = tree(runtime(event="use crate::queue;", queue="use crate::lock;", lock="use crate::event;"))
    assert directions.check_tiers(root) == ["crates/greenrust/src: import cycle: event -> queue -> lock -> event"]


def test_module_without_a_tier_is_reported(directions, tree):
    (problem,) = directions.check_tiers(tree(runtime(surprise="")))
    assert "module surprise has no tier" in problem


def test_only_context_names_corosensei(directions, tree):
    (problem,) = directions.check_rust_names(tree(runtime(stack="use corosensei::stack::Stack;")))
    assert "crates/greenrust/src/stack.rs:2: only" in problem


def test_only_thread_state_names_py_thread_state(directions, tree):
    root = tree({"crates/greenrust-python/src/hub.rs": FORBID + "fn f(state: *mut ffi::PyThreadState) {}"})
    (problem,) = directions.check_rust_names(root)
    assert "hub.rs:2" in problem and "PyThreadState" in problem


def test_unsafe_code_outside_the_list_is_reported(directions, tree):
    (problem,) = directions.check_rust_names(tree({"crates/greenrust/src/clock.rs": "fn f() { unsafe { g() } }"}))
    assert "clock.rs: has unsafe code and is not in UNSAFE_FILES" in problem


def test_file_without_unsafe_code_must_forbid_it(directions, tree):
    (problem,) = directions.check_rust_names(tree({"crates/greenrust/src/clock.rs": "// no unsafe here\nfn f() {}"}))
    assert "does not say #![forbid(unsafe_code)]" in problem


def test_module_above_an_unsafe_file_need_not_forbid(directions, tree):
    directions.UNSAFE_FILES["crates/greenrust/src/sys/memory.rs"] = "reason"
    root = tree(
        {
            "crates/greenrust/src/lib.rs": "mod sys;",
            "crates/greenrust/src/sys/mod.rs": "mod memory;",
            "crates/greenrust/src/sys/memory.rs": "fn f() { unsafe { g() } }",
            "crates/greenrust/src/http/mod.rs": "mod parse;",
        }
    )
    (problem,) = directions.check_rust_names(root)
    assert problem.startswith("crates/greenrust/src/http/mod.rs")


def test_stale_entries_of_the_lists_are_reported(directions, tree):
    directions.UNSAFE_FILES["crates/greenrust/src/clock.rs"] = "reason"
    directions.LATE_IMPORTS[("gevent.a", "gevent.b")] = "reason"
    root = tree({**runtime(clock=""), "python/gevent/a.py": "", "python/gevent/b.py": ""})
    assert len(directions.check_rust_names(root)) == 1
    assert len(directions.check_python(root)) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("from gevent.b import x", "from gevent.a import y"),
        ("from . import b", "from gevent import a"),
        ("try:\n    import gevent.b\nexcept ImportError:\n    pass", "class C:\n    from .a import y"),
    ],
)
def test_python_import_cycle_is_found(directions, tree, a, b):
    root = tree({"python/gevent/__init__.py": "", "python/gevent/a.py": a, "python/gevent/b.py": b})
    assert directions.check_python(root) == ["python/gevent: import cycle: gevent.a -> gevent.b -> gevent.a"]


def test_import_for_type_checking_alone_is_no_cycle(directions, tree):
    root = tree(
        {
            "python/gevent/a.py": "from gevent.b import x",
            "python/gevent/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gevent.a import y",
        }
    )
    assert directions.check_python(root) == []


def test_import_inside_a_function_needs_a_listed_reason(directions, tree):
    source = "def f():\n    import json\n    from gevent import b\n"
    root = tree({"python/gevent/a.py": source, "python/gevent/b.py": ""})
    assert directions.check_python(root) == ["python/gevent/a.py:3: imports gevent.b inside a function"]
    directions.LATE_IMPORTS[("gevent.a", "gevent.b")] = "a reason"
    assert directions.check_python(root) == []


@pytest.mark.parametrize("name", ["utils", "_common", "compat"])
def test_nameless_python_module_is_reported(directions, tree, name):
    (problem,) = directions.check_python(tree({f"python/gevent/{name}.py": ""}))
    assert f"not {name}" in problem


@pytest.mark.parametrize(
    "text", ["/ho" + "me/me/x", "see /ro" + "ot/.cache/y", '"/wo' + 'rk/main"']
)
def test_path_of_one_machine_is_reported(directions, tree, text):
    (problem,) = directions.check_paths(tree({"docs/a.md": f"first line\n{text}\n"}))
    assert problem.startswith("docs/a.md:2: names a path of one machine")
