//! The configuration of the gateway: what is served, and the front ends that read it.
//!
//! Front ends (flags, Envoy bootstrap, Kubernetes manifests) build one [`Snapshot`](snapshot::Snapshot).
//! [`load`] reads files of either language, [`parse_envoy`] Envoy's bootstrap, [`from_flags`] serves the
//! command line that needs no file. Whatever comes back is checked as a whole: nothing starts on a configuration
//! that is half understood.
//!
//! Nothing here opens a connection, and no runtime is needed. The features `bootstrap` and `manifests` are the two
//! languages; with none of them there is the snapshot alone.

#![forbid(unsafe_code)]
// What the front ends share, one alone does not use up.
#![cfg_attr(
    not(all(feature = "bootstrap", feature = "manifests")),
    allow(dead_code, unused_imports)
)]

#[cfg(feature = "bootstrap")]
pub mod bootstrap;
#[cfg(any(feature = "bootstrap", feature = "manifests"))]
mod document;
mod error;
#[cfg(test)]
mod fuzzing;
#[cfg(all(feature = "bootstrap", feature = "manifests"))]
mod load;
#[cfg(feature = "manifests")]
pub mod manifests;
pub mod snapshot;

#[cfg(feature = "bootstrap")]
pub use self::bootstrap::{from_flags, parse as parse_envoy};
pub use self::error::Error;
#[cfg(all(feature = "bootstrap", feature = "manifests"))]
pub use self::load::{load, load_file};
