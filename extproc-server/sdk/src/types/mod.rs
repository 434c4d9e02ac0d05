//! Words without behaviour, which every room may use.

mod mode;
mod phase;

pub use self::{
    mode::{BodyMode, ModeOverride, Modes},
    phase::{Phase, Side, Target},
};

/// Any error; what a handler may fail with. A [`tonic::Status`] in it keeps its code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
