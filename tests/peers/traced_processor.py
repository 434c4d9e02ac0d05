"""A processor that changes nothing, traced by OpenTelemetry's own instrumentation of gRPC and by nothing else.

`traced_processor.py COLLECTOR` prints the port that it listens on. It speaks of messages as bytes: a reply with one empty
member is all that it needs.
"""
import sys
from concurrent import futures

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcInstrumentorServer
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "python-processor"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[1] + "/v1/traces")))
trace.set_tracer_provider(provider)
GrpcInstrumentorServer().instrument()

# Numbers of ProcessingRequest's request_headers and response_headers, and the reply to each: its member with an empty message.
REPLIES = {2: b"\x0a\x00", 3: b"\x12\x00"}


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def members(data):
    """Numbers of the members of a message that has varints and members with a length alone."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        at += value if tag & 7 == 2 else 0
        yield tag >> 3


def process(requests, _context):
    for request in requests:
        for reply in filter(None, map(REPLIES.get, members(request))):
            # Its own work, in a span that knows nothing of the proxy.
            with trace.get_tracer("processor").start_as_current_span("work"):
                pass
            yield reply


handler = grpc.stream_stream_rpc_method_handler(process)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler}),)
)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
