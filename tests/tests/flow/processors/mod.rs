//! Processors that others wrote, unchanged, behind Envoy and behind the gateway: the same bootstrap, the same traffic, the
//! same result.
//!
//! Processors that take minutes to build run only with `EXTPROC_CONFORMANCE=live`.

mod both;
mod datadog;
mod inference;

use tests::support::trial::OnlyWhen;

pub(super) use datadog::datadog_callout;
pub(super) use inference::{body_based_router, endpoint_picker};

const JSON: &str = "content-type: application/json";

fn only_live() -> anyhow::Result<()> {
    match std::env::var("EXTPROC_CONFORMANCE").as_deref() {
        Ok("live") => Ok(()),
        _ => Err(OnlyWhen("EXTPROC_CONFORMANCE=live: it takes minutes to build").into()),
    }
}
