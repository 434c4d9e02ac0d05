"""A processor on somebody else's SDK (PyPI envoy-extproc-sdk), for the interoperability tests.

It marks requests and responses, turns bodies to upper case, and refuses the path /refused.
"""
from envoy_extproc_sdk import BaseExtProcService, StopRequestProcessing, ext_api
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption


def _mark(response, key, value):
    header = HeaderValue(key=key, raw_value=value.encode())
    response.header_mutation.set_headers.append(HeaderValueOption(header=header))


def _find(headers, name):
    for header in headers.headers.headers:
        if header.key == name:
            return (header.raw_value or header.value.encode()).decode()
    return ""


class PeerProcessor(BaseExtProcService):
    async def process_request_headers(self, headers, context, request, response):
        path = _find(headers, ":path")
        if path.startswith("/refused"):
            refusal = ext_api.ImmediateResponse(body=b"refused by the peer")
            refusal.status.code = 403
            raise StopRequestProcessing(refusal, "as the path says")
        _mark(response, "x-peer-request", path)
        response.header_mutation.remove_headers.append("x-remove-me")
        return response

    async def process_request_body(self, body, context, request, response):
        response.body_mutation.body = body.body.upper()
        _mark(response, "content-length", str(len(body.body)))
        return response

    async def process_response_headers(self, headers, context, request, response):
        _mark(response, "x-peer-response", _find(headers, ":status"))
        return response
