"""Python's WebSocket client and server."""

import websocket


def test_messages_of_every_size_come_back(edge):
    with websocket.server(edge), websocket.client(edge) as socket:
        for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000]:
            message = bytes(size)
            socket.send(message)
            assert socket.recv(timeout=20) == message
        socket.ping().wait(20)


def test_the_backends_close_reaches_the_client(edge):
    with websocket.server(edge), websocket.client(edge) as socket:
        socket.close(1000, "done")
        assert socket.close_code == 1000
