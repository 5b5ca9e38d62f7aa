"""The resolver `ares` of gevent: not there yet."""
from typing import Any

__all__ = ["Resolver"]


class Resolver:
    """Raises NotImplementedError when it is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "the resolver 'ares' is not implemented in greenrust yet; use GEVENT_RESOLVER=thread (the default)"
        )
