"""gRPC's own client and server, all four kinds of calls."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

NAME = "live.shop.example.com"


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/echo.Echo/One": grpc.unary_unary_rpc_method_handler(self.one),
            "/echo.Echo/Many": grpc.stream_stream_rpc_method_handler(self.many),
            "/echo.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/echo.Echo/Never": grpc.unary_unary_rpc_method_handler(self.never),
        }.get(details.method)

    def one(self, request, context):
        context.set_trailing_metadata([("x-said", "bye")])
        return request

    def many(self, requests, _):
        yield from requests

    def fail(self, _, context):
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is one")

    def never(self, request, context):
        while context.is_active():
            context._state.condition.acquire()
            context._state.condition.wait(0.05)
            context._state.condition.release()
        return request


@pytest.fixture(scope="module")
def channel(edge):
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Echo()])
    server.add_insecure_port(f"127.0.0.1:{edge.ports['rpc']}")
    server.start()
    with open(edge.ca, "rb") as ca:
        credentials = grpc.ssl_channel_credentials(ca.read())
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.default_authority", NAME)]
    with grpc.secure_channel(f"127.0.0.1:{edge.ports['https']}", credentials, options) as channel:
        yield channel
    server.stop(None).wait()


def test_one_message_and_trailers(channel):
    answer, call = channel.unary_unary("/echo.Echo/One").with_call(b"x" * 100_000, timeout=20)
    assert answer == b"x" * 100_000
    assert ("x-said", "bye") in call.trailing_metadata()


def test_a_stream_goes_both_ways_message_by_message(channel):
    asked = []

    def requests():
        for number in range(50):
            asked.append(number)
            yield bytes([number])

    answers = channel.stream_stream("/echo.Echo/Many")(requests(), timeout=20)
    assert [answer[0] for answer in answers] == asked


def check(channel, method, code, timeout=20):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(method)(b"", timeout=timeout)
    assert error.value.code() == code
    return error.value.details()


def test_failures_and_deadlines(channel):
    assert check(channel, "/echo.Echo/Fail", grpc.StatusCode.ALREADY_EXISTS) == "there is one"
    check(channel, "/echo.Echo/Unknown", grpc.StatusCode.UNIMPLEMENTED)
    check(channel, "/echo.Echo/Never", grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.3)


def test_a_backend_that_is_gone_is_unavailable(edge, channel):
    text = (edge.folder / "config" / "extras.yaml").read_text()
    gone = text.replace(f"grpc: {edge.ports['rpc']}", "grpc: 1")
    from edge import wait

    before = edge.own("admin", "/config_dump")
    edge.config("extras", gone)
    wait("the change is live", lambda: edge.own("admin", "/config_dump") != before)
    check(channel, "/echo.Echo/One", grpc.StatusCode.UNAVAILABLE)
    before = edge.own("admin", "/config_dump")
    edge.config("extras", text)
    wait("the change is live", lambda: edge.own("admin", "/config_dump") != before)
    assert channel.unary_unary("/echo.Echo/One")(b"y", timeout=20) == b"y"
