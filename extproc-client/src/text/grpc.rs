//! gRPC statuses.

/// The gRPC status of an answer that has none of its own ("HTTP to gRPC Status Code Mapping" of the gRPC documentation); Envoy's
/// local replies to gRPC requests have the same.
pub fn grpc_code(status: http::StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
