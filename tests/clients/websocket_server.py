"""A WebSocket server of the library websockets: each message is answered when three connections have sent one.

Run by a plain Python: `websocket_server.py PORT`.
"""
import sys
import threading

from websockets.sync.server import serve

barrier = threading.Barrier(3)


def handle(connection):
    for message in connection:
        barrier.wait(20)
        connection.send(message.upper())


serve(handle, "127.0.0.1", int(sys.argv[1])).serve_forever()
