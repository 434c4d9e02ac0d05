//! Limits of the process and of clusters: memory, descriptors, connections, requests, warnings.

pub(crate) mod breakers;
pub(crate) mod buckets;
pub(crate) mod buffers;
pub(crate) mod descriptors;
pub(crate) mod overload;
pub(crate) mod throttle;
