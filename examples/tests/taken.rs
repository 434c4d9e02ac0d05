//! Exchanges that were taken away from the inspector as tests in Rust, played to the sample processor.
//!
//! `cargo test -p tests --test takeaway` records them and names the file; each test in it is as the inspector gave it.

include!(env!("EXTPROC_TAKEN"));
