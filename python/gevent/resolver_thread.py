"""An old name of `gevent.resolver.thread`. Importing it gives a DeprecationWarning."""
import warnings

from gevent.resolver.thread import Resolver

__all__ = ["Resolver"]

warnings.warn("gevent.resolver_thread is deprecated; import gevent.resolver.thread instead", DeprecationWarning,
              stacklevel=2)
del warnings
