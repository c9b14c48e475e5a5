"""What a Prometheus parser makes of the metrics, after real gRPC calls."""

import threading

import grpc
from prometheus_client.parser import text_string_to_metric_families

from edge import wait
from test_grpc import channel  # noqa: F401  (a fixture)


def families(edge):
    return {family.name: family for family in text_string_to_metric_families(edge.own("metrics", "/metrics"))}


def total(edge, family, name, **labels):
    found = families(edge).get(family)
    samples = found.samples if found else []
    wanted = labels.items()
    return sum(s.value for s in samples if s.name == name and wanted <= s.labels.items())


def test_every_sample_is_of_a_family_with_type_and_help(edge, channel):
    channel.unary_unary("/echo.Echo/One")(b"x", timeout=20)
    all_of_it = families(edge)
    assert all(family.type != "unknown" and family.documentation for family in all_of_it.values())
    seen = [(s.name, tuple(sorted(s.labels.items()))) for f in all_of_it.values() for s in f.samples]
    assert len(seen) == len(set(seen)), "a series is shown twice"


def test_histograms_add_up(edge, channel):
    channel.unary_unary("/echo.Echo/One")(b"x", timeout=20)
    family = families(edge)["istio_request_duration_milliseconds"]
    by_labels = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        entry = by_labels.setdefault(tuple(sorted(labels.items())), {"buckets": []})
        if bound is None:
            entry[sample.name.rsplit("_", 1)[1]] = sample.value
        else:
            entry["buckets"].append((float(bound), sample.value))
    assert by_labels
    for entry in by_labels.values():
        counts = [count for _, count in sorted(entry["buckets"])]
        assert counts == sorted(counts) and len(counts) == 20
        assert counts[-1] == entry["count"]


def test_grpc_messages_grow_while_a_stream_lives(edge, channel):
    def messages(way):
        return total(edge, f"istio_{way}_messages", f"istio_{way}_messages_total")

    def statuses(code):
        labels = {"request_protocol": "grpc", "grpc_response_status": code}
        return total(edge, "istio_requests", "istio_requests_total", **labels)

    asked, answered = messages("request"), messages("response")
    ended = statuses("0")
    more = threading.Event()

    def requests():
        yield from (b"1", b"", b"3" * 100_000)
        more.wait(20)
        yield b"4"

    answers = channel.stream_stream("/echo.Echo/Many")(requests(), timeout=60)
    for _ in range(3):
        next(answers)
    wait("three are counted", lambda: messages("request") == asked + 3)
    wait("three answers", lambda: messages("response") == answered + 3)
    assert statuses("0") == ended
    more.set()
    assert [len(answer) for answer in answers] == [1]
    wait("all are counted", lambda: messages("response") == answered + 4)
    wait("the call is counted", lambda: statuses("0") == ended + 1)
    try:
        channel.unary_unary("/echo.Echo/Fail")(b"", timeout=20)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    wait("the failure is counted", lambda: statuses("6") >= 1)
