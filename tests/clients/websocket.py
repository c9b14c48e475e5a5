"""A WebSocket server and clients through the gateway."""

import ssl
import threading
from contextlib import contextmanager

from websockets.sync.client import connect
from websockets.sync.server import serve

NAME = "live.shop.example.com"


@contextmanager
def server(edge):
    def echo(socket):
        for message in socket:
            socket.send(message)

    with serve(echo, "127.0.0.1", edge.ports["websocket"], max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
    thread.join()


def client(edge):
    trust = ssl.create_default_context(cafile=edge.ca)
    return connect(
        f"wss://{NAME}/", host="127.0.0.1", port=edge.ports["https"], ssl=trust, max_size=None
    )
