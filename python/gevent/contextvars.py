"""The standard library's `contextvars`: each greenlet has a context of its own."""
from contextvars import Context, ContextVar, Token, copy_context

__all__ = ["ContextVar", "Context", "copy_context", "Token"]
__implements__: list[str] = []
__imports__ = __all__
