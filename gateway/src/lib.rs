//! A minimal HTTP gateway around the ext_proc layer.

#![forbid(unsafe_code)]

pub mod config;
