"""Host name look-ups behind `gevent.hub.Hub.resolver`: one module for each way to do them.

A resolver is a class that is made with `hub=` and has `getaddrinfo`, `gethostbyname`, `gethostbyname_ex`,
`gethostbyaddr`, `getnameinfo` and `close`. The setting `resolver` (GEVENT_RESOLVER) chooses it.
"""
__all__: list[str] = []
