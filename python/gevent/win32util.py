"""An old module that programs for Windows import: the text of an error number."""
import os

__all__ = ["formatError"]


def formatError(errorcode: int) -> str:
    """Return the system's message for the error number *errorcode*, as `os.strerror` does."""
    return os.strerror(errorcode)
