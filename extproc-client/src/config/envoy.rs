//! From the messages of `envoy-types`.
