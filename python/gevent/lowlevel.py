"""The greenlet class itself, under the names of the module `greenlet` on PyPI.

Importing `gevent` also makes this module importable as `greenlet`, so that code which uses greenlets directly sees the
greenlets that gevent switches. `gevent.Greenlet` is a subclass of `greenlet.greenlet`.

`_C_API` is the interface for extensions that were compiled with PyPI's `greenlet.h`. They take greenlets for opaque, as
long as they call its functions alone.
"""
from gevent._greenrust import _C_API, GreenletExit, error, getcurrent, gettrace, greenlet, settrace

__all__ = ["__version__", "_C_API", "GreenletExit", "error", "getcurrent", "gettrace", "greenlet", "settrace"]

#: The release of PyPI's greenlet whose interface this module has; programs compare it.
__version__ = "3.5.6"

#: The garbage collector can look into suspended greenlets.
GREENLET_USE_GC = True
#: `settrace` works.
GREENLET_USE_TRACING = True
#: Each greenlet has a `contextvars.Context` of its own.
GREENLET_USE_CONTEXT_VARS = True
