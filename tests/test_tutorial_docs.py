"""The documents show what the files contain, and promise what the demonstration checks.

In the documents a comment stands before each such block of code and names what it shows: `<!-- file: PATH -->` the text
of a file, `<!-- output: NAME -->` what the example of that name prints.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ("docs/tutorial.md", "docs/tutorial.ja.md")
DOCUMENTS = ("README.md", "docs/databases.md", *TUTORIALS)

PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("examples/tutorial/*.py"),
        *ROOT.glob("crates/greenrust/examples/tutorial_*.rs"),
    )
)

MARKED_BLOCK = re.compile(
    r"^<!-- (?P<kind>file|output): (?P<name>\S+) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"^<!-- (?:file|output):", re.MULTILINE)


def marked_blocks(document: str) -> list[re.Match[str]]:
    return list(MARKED_BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")))


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tutorial_demo", ROOT / "scripts" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_mark_is_followed_by_a_block_of_code(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert len(MARK.findall(text)) == len(marked_blocks(document)) > 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_in_a_document_is_the_file_that_it_names(document):
    for block in marked_blocks(document):
        if block["kind"] == "file":
            file = ROOT / block["name"]
            assert block["text"] == file.read_text(encoding="utf-8"), f"{document} shows another {block['name']}"
            assert block["language"] == {".py": "python", ".rs": "rust"}[file.suffix]


@pytest.mark.parametrize("document", TUTORIALS)
def test_tutorial_shows_every_program_once(document):
    shown = [block["name"] for block in marked_blocks(document) if block["kind"] == "file"]
    assert sorted(shown) == PROGRAMS


def test_both_languages_show_the_same_blocks_in_the_same_order():
    english, japanese = ([block[0] for block in marked_blocks(document)] for document in TUTORIALS)
    assert english == japanese


@pytest.mark.parametrize("document", TUTORIALS)
def test_output_in_a_tutorial_is_what_the_demonstration_checks(document):
    demo = load_demo()
    outputs = {block["name"]: block["text"] for block in marked_blocks(document) if block["kind"] == "output"}
    expected = {program.python_file: program.expected for program in demo.PROGRAMS if program.expected is not None}
    assert expected.keys() <= outputs.keys()
    for name, lines in expected.items():
        check = demo.printed(outputs[name].splitlines(), lines, name)
        assert check.passed, check.reason


def test_demonstration_runs_every_program_of_the_tutorial():
    programs = load_demo().PROGRAMS
    names = {f"examples/tutorial/{program.python_file}" for program in programs}
    names |= {f"crates/greenrust/examples/{program.rust_example}.rs" for program in programs}
    assert set(PROGRAMS) <= names
    assert len(programs) == 6


def test_first_program_of_the_readme_prints_what_the_readme_says():
    output = {block["kind"]: block for block in marked_blocks("README.md")}["output"]
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / output["name"]], capture_output=True, text=True, timeout=30, check=False
    )
    assert (result.stdout, result.stderr, result.returncode) == (output["text"], "", 0)
