"""The SDK expects the health messages under this name; grpcio-health-checking has them under another."""
from grpc_health.v1.health_pb2 import *  # noqa: F401,F403
