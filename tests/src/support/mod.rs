//! Parts that the suites share: scripted peers that see and send exact HTTP, child processes, ports.
//!
//! Nothing here knows the gateway or the layer: the peers speak HTTP and gRPC by themselves, so that a mistake in the
//! code under test cannot hide behind the same mistake in its test.

pub mod activity;
pub mod adversary;
pub mod apiserver;
pub mod client;
pub mod clock;
pub mod curl;
pub mod exchange;
pub mod frames;
pub mod http1;
pub mod load;
pub mod peers;
pub mod ports;
pub mod process;
pub mod processor;
pub mod rig;
pub mod script;
pub mod trial;
pub mod upstream;
pub mod wait;
