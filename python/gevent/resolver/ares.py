"""The resolver that gevent builds on c-ares: here `gevent.resolver.native` under that name and with its settings."""
from typing import Any

from gevent._config import config
from gevent.resolver import native

__all__ = ["Resolver"]

# Of the flags of ares_init_options(3).
_USE_TCP = 1 << 0
_FIRST_SERVER_ONLY = 1 << 1
_IGNORE_TRUNCATION = 1 << 2
_NO_RECURSION = 1 << 3
_NO_SEARCH = 1 << 5


class Resolver(native.Resolver):
    """The native resolver, for programs and environments that choose `ares`.

    The keyword arguments are those of gevent's: *flags*, *timeout* (seconds for a server to answer), *tries*, *ndots*,
    *udp_port*, *tcp_port*, *servers*. One that is not given comes from the setting `ares_...` (GEVENTARES_...), unless
    *use_environ* is False. Of *flags* these have an effect: 1 (ARES_FLAG_USEVC: no datagrams), 2 (ARES_FLAG_PRIMARY:
    the first server alone), 4 (ARES_FLAG_IGNTC: what a datagram had room for is the answer), 8 (ARES_FLAG_NORECURSE:
    servers don't ask others), 32 (ARES_FLAG_NOSEARCH: no search domains).
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
        flags = int(flags or 0)
        super().__init__(
            hub,
            use_tcp=bool(flags & _USE_TCP),
            first_server_only=bool(flags & _FIRST_SERVER_ONLY),
            ignore_truncation=bool(flags & _IGNORE_TRUNCATION),
            recursive=not flags & _NO_RECURSION,
            search=not flags & _NO_SEARCH,
            **kwargs,
        )
