"""What patching warns of and fails with."""
from typing import Any


class MonkeyPatchWarning(RuntimeWarning):
    """Something about patching that may be a mistake of the program."""


class BadImplements(AttributeError):
    """A module to patch from does not say what it implements."""

    def __init__(self, module: Any) -> None:
        super().__init__(f"Module {module!r} has a bad or missing value for __implements__")
