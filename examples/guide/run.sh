#!/usr/bin/env bash
# The guide's lines without a cluster: the same YAML, read from files.
#
# Needs `gateway` and `extproc-server` on the PATH (or in target/release), curl, and an httpbin on
# HTTPBIN (default 127.0.0.1:8000; `cargo run --release -p examples --example httpbin` is one).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PATH=${CARGO_TARGET_DIR:-$here/../../target}/release:$PATH
HTTPBIN=${HTTPBIN:-127.0.0.1:8000}
PROCESSOR=${PROCESSOR:-127.0.0.1:18080}
PORT=${PORT:-8080}

# In place of the Deployments of ext-proc-grpc and agentgateway-proxy.
extproc-server --listen "$PROCESSOR" &
processor=$!
gateway --config "$here" --namespace agentgateway-system --listen-port "80=$PORT" \
  --endpoints "httpbin/httpbin:8000=$HTTPBIN" \
  --endpoints "agentgateway-system/ext-proc-grpc:4444=$PROCESSOR" &
gateway=$!
trap 'kill $gateway $processor; wait' EXIT

# The guide's line.
curl -vi --retry 20 --retry-connrefused --retry-delay 1 "http://localhost:$PORT/headers" -H "host: www.example.com" -H 'instructions: {"addHeaders":{"extproc":"true"}}'
