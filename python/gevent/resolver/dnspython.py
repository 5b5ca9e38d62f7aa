"""The resolver that gevent builds on dnspython: here `gevent.resolver.native` under that name."""
from gevent.resolver import native

__all__ = ["Resolver"]


class Resolver(native.Resolver):
    """The native resolver, for programs and environments that choose `dnspython`; the package dnspython is not used."""
