//! The wire suite: what a proxy does with exact bytes, on both of its sides.
//!
//! A case says which bytes the client sends, what the upstream answers, and, byte for byte, what each of them has to
//! receive and whether the connection is still good afterwards. Every case has a listener, a cluster and an upstream of
//! its own, all in one proxy process, so that cases run side by side. The same cases run against other proxies
//! ([`target`]), a careless one included ([`careless`]).
//!
//! Heads are compared as sets of fields (order and case of names mean nothing), everything else exactly. The reader of
//! what arrives is strict ([`message`]): a peer that would have to guess counts as wrong.

pub mod careless;
pub mod case;
pub mod frames;
pub mod h2spec;
pub mod message;
pub mod peer;
pub mod rules;
pub mod run;
pub mod target;
