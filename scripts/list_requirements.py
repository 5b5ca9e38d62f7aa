#!/usr/bin/env python3
"""Print, one a line, the requirements of the named extras and dependency groups of pyproject.toml.

Usage: list_requirements.py NAME...

The environments of the test command are made from pyproject.toml alone, also with a pip that does not know
dependency groups (PEP 735) and without building the project itself.
"""
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, names: list[str]) -> list[str]:
    """Return the requirements of the extras and groups `names`; raises KeyError for a name that is neither."""
    known = dict(project["project"]["optional-dependencies"])
    known.update(project.get("dependency-groups", {}))
    known["dependencies"] = project["project"]["dependencies"]
    return [requirement for name in names for requirement in known[name]]


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(requirements(tomllib.loads(text), sys.argv[1:])))
