"""A server that answers redis-benchmark's PING: of gevent, or with --uvloop an asyncio Protocol on uvloop.

usage: python echo_server.py [--uvloop] PORT

redis-benchmark asks for two settings by CONFIG first, and waits for an answer to each: they get an error.
"""
import sys


def answer(data):
    """Return what is sent for the bytes *data*, of one read."""
    return b"+PONG\r\n" * data.count(b"PING") + b"-ERR unknown\r\n" * data.count(b"CONFIG")


def serve_gevent(port):
    from gevent.server import StreamServer

    def handle(connection, address):
        while data := connection.recv(4096):
            connection.sendall(answer(data))

    StreamServer(("127.0.0.1", port), handle, backlog=1024).serve_forever()


def serve_uvloop(port):
    import asyncio

    import uvloop

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(answer(data))

    async def main():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    uvloop.run(main())


if __name__ == "__main__":
    (serve_uvloop if "--uvloop" in sys.argv else serve_gevent)(int(sys.argv[-1]))
