//! Trials of whole flows: what a flow needs and cannot have, it says, and the trial is ignored with that reason.

use libtest_mimic::{Completion, Failed, Trial};

use super::curl;
use crate::provision::Missing;

/// A flow that is only run when it is asked for, and how to ask.
#[derive(Debug)]
pub struct OnlyWhen(pub &'static str);

impl std::fmt::Display for OnlyWhen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "only with {}", self.0)
    }
}

impl std::error::Error for OnlyWhen {}

/// A trial that needs `curl` and whatever `flow` asks for. A [`Missing`] part ignores or fails it, as
/// `EXTPROC_PEERS` says; [`OnlyWhen`] ignores it.
pub fn flow(name: &str, flow: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        let result = curl::available()
            .map_err(anyhow::Error::new)
            .and_then(|()| tokio::runtime::Runtime::new()?.block_on(flow));
        outcome(result)
    })
}

/// Turns a trial's result into the outcome of a test.
///
/// # Errors
/// The trial failed.
pub fn outcome(result: anyhow::Result<()>) -> Result<Completion, Failed> {
    let Err(error) = result else {
        return Ok(Completion::Completed);
    };
    if let Some(missing) = error.downcast_ref::<Missing>() {
        return missing.completion();
    }
    match error.downcast_ref::<OnlyWhen>() {
        Some(reason) => Ok(Completion::ignored_with(reason.to_string())),
        None => Err(Failed::from(format!("{error:#}"))),
    }
}
