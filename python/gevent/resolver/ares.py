"""The resolver that gevent builds on c-ares: here `gevent.resolver.native` under that name and with its settings."""
from typing import Any

from gevent._config import config
from gevent.resolver import native

__all__ = ["Resolver"]

# Of the flags of ares_init_options(3).
_USE_TCP = 1 << 0


class Resolver(native.Resolver):
    """The native resolver, for programs and environments that choose `ares`.

    The keyword arguments are those of gevent's: *flags*, *timeout* (seconds for a server to answer), *tries*, *ndots*,
    *udp_port*, *tcp_port*, *servers*. One that is not given comes from the setting `ares_...` (GEVENTARES_...), unless
    *use_environ* is False. Of *flags*, 1 (ARES_FLAG_USEVC) has an effect: no datagrams.
    """

    def __init__(self, hub: Any = None, use_environ: bool = True, *, flags: int | str | None = None,
                 **kwargs: Any) -> None:
        if use_environ:
            for name in ("timeout", "tries", "ndots", "udp_port", "tcp_port", "servers"):
                if kwargs.get(name) is None:
                    kwargs[name] = getattr(config, "ares_" + name)
            flags = config.ares_flags if flags is None else flags
        #: What was asked for, as it was given.
        self.params = {**kwargs, "flags": flags}
        super().__init__(hub, use_tcp=bool(int(flags or 0) & _USE_TCP), **kwargs)
