//! Header blocks: what of them is sent to the processor, and what it may change.

mod block;
mod forward;
mod inline;
mod mutate;
mod rules;

pub use self::inline::{
    CLIENT_TRACE_ID, is_inline_request_header, is_inline_response_header, is_joined_request_header,
    is_joined_response_header,
};
pub(crate) use self::{
    block::{Block, settle_host},
    forward::Forwarded,
    mutate::{Mutated, Mutation, Rejection, remove_content_length, remove_unkept_length},
    rules::{Operation, Verdict},
};
