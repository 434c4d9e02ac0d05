"""A processor without an SDK for ext_proc, with OpenTelemetry's own instrumentation of gRPC.

traced_processor.py PORT sends its spans where OTEL_EXPORTER_OTLP_ENDPOINT says.
"""

import sys
from concurrent import futures

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as messages
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as service
from opentelemetry import baggage, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcInstrumentorServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


class Traced(service.ExternalProcessorServicer):
    """Answers headers within a span of its own, and says what baggage came with the call."""

    def Process(self, requests, context):
        tracer = trace.get_tracer("processor")
        for request in requests:
            phase = request.WhichOneof("request")
            with tracer.start_as_current_span(phase) as span:
                span.set_attribute("user", str(baggage.get_baggage("user")))
                yield messages.ProcessingResponse(**{phase: messages.HeadersResponse()})


def main():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(insecure=True)))
    trace.set_tracer_provider(provider)
    GrpcInstrumentorServer().instrument()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service.add_ExternalProcessorServicer_to_server(Traced(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


main()
