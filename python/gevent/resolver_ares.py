"""An old name of `gevent.resolver.ares`. Importing it gives a DeprecationWarning."""
import warnings

from gevent.resolver.ares import Resolver

__all__ = ["Resolver"]

warnings.warn("gevent.resolver_ares is deprecated; import gevent.resolver.ares instead", DeprecationWarning,
              stacklevel=2)
del warnings
