"""A WebSocket server and clients through the gateway."""

import socket
import ssl
import threading
from contextlib import contextmanager

from websockets.sync.client import connect
from websockets.sync.server import serve

NAME = "live.shop.example.com"


@contextmanager
def server(edge):
    def echo(peer):
        for message in peer:
            peer.send(message)

    with serve(echo, "127.0.0.1", edge.ports["websocket"], max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
    thread.join()


def client(edge, **options):
    trust = ssl.create_default_context(cafile=edge.ca)
    port = edge.ports["https"]
    stream = socket.create_connection(("127.0.0.1", port))
    return connect(f"wss://{NAME}:{port}/", sock=stream, ssl=trust, max_size=None, **options)
