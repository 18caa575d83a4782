"""A receiver of OTLP over HTTP: keeps what it is sent, as bytes and as spans."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["OtlpReceiver", "receiving"]


class OtlpReceiver:
    """What has come to it. Until `answers` is set it takes requests and says nothing."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.url = ""

    def messages(self) -> list[Any]:
        """Every request, decoded: `ExportTraceServiceRequest`."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]

    def spans(self) -> list[Any]:
        """Every span, as the protocol has it: `opentelemetry.proto.trace.v1.Span`."""
        return [
            span
            for message in self.messages()
            for resource in message.resource_spans
            for library in resource.scope_spans
            for span in library.spans
        ]


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    """A receiver on a port of its own, in threads of this process."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.asked.set()
            receiver.answers.wait()
            receiver.paths.append(self.path)
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            receiver.bodies.append(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def handle(self) -> None:
            """Serve a connection; one that its client breaks off is no error."""
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
