"""Servers of external authorization: gRPC's own with Envoy's messages, and http.server."""

import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import grpc

with warnings.catch_warnings():
    # What was generated for this package uses deprecated names of pydantic's.
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption
    from envoy_data_plane.envoy.service.auth.v3 import (
        CheckRequest,
        CheckResponse,
        DeniedHttpResponse,
        OkHttpResponse,
    )
    from envoy_data_plane.envoy.type.v3 import HttpStatus
    from envoy_data_plane.google.rpc import Status

SLOW_SECONDS = 3


def option(key, value):
    return HeaderValueOption(header=HeaderValue(key=key, value=value))


class Grpc(grpc.GenericRpcHandler):
    """Answers by the path's last part, or by the server name of a connection."""

    def __init__(self):
        self.asked = []

    def service(self, details):
        if details.method != "/envoy.service.auth.v3.Authorization/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self.check, request_deserializer=CheckRequest.parse, response_serializer=bytes
        )

    def check(self, request, context):
        self.asked.append(request.attributes)
        http = request.attributes.request and request.attributes.request.http
        if not http:
            name = request.attributes.tls_session.sni if request.attributes.tls_session else ""
            return CheckResponse(status=Status(code=0 if name == "allowed.example.com" else 7))
        how = http.path.split("?")[0].rsplit("/", 1)[1]
        if how == "slow":
            time.sleep(SLOW_SECONDS)
        if how == "fail":
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        if how == "deny":
            denied = DeniedHttpResponse(
                status=HttpStatus(code=402), headers=[option("x-why", "money")], body="pay"
            )
            return CheckResponse(status=Status(code=7), denied_response=denied)
        if how == "bare":
            return CheckResponse(status=Status(code=16))
        allowed = OkHttpResponse(
            headers=[option("x-user", "alice")],
            headers_to_remove=["x-drop"],
            response_headers_to_add=[option("x-seen", "yes")],
        )
        return CheckResponse(status=Status(code=0), ok_response=allowed)

    def __enter__(self):
        self.server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


class Http:
    """Answers by the path's last part."""

    def __init__(self):
        self.asked = []

    def __enter__(self):
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                asked.append((self.path, dict(self.headers)))
                how = self.path.split("?")[0].rsplit("/", 1)[1]
                if how == "slow":
                    time.sleep(SLOW_SECONDS)
                status, body = {"deny": (401, b"who?"), "fail": (500, b"")}.get(how, (200, b""))
                self.send_response(status)
                for name, value in [("x-user", "alice"), ("x-seen", "yes"), ("x-internal", "secret")]:
                    self.send_header(name, value)
                self.send_header("www-authenticate", 'Basic realm="x"')
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
