//! The differential suite: one bootstrap, the same scripted peers, Envoy and our gateway, and what everybody saw.
//!
//! [`scenario`] reads the YAML files, [`bootstrap`] renders the proxy's configuration, [`run`] plays a scenario against
//! one proxy, [`normalise`] says what of it is compared, [`compare`] compares, [`golden`] keeps what Envoy did,
//! [`report`] writes the table in `docs/`.

pub mod bootstrap;
pub mod compare;
pub mod golden;
pub mod normalise;
pub mod report;
pub mod run;
pub mod scenario;
