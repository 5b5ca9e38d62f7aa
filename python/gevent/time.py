"""The standard library's `time` with a `sleep` that lets other greenlets run."""
import time as _time
from typing import Any

from gevent._greenrust import sleep

__all__ = ["sleep"]
__implements__ = ["sleep"]
__imports__ = [name for name in dir(_time) if not name.startswith("_") and name not in __implements__]

globals().update({name: getattr(_time, name) for name in __imports__})


def __getattr__(name: str) -> Any:
    return getattr(_time, name)
