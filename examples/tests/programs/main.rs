//! The example processors as a user runs them: programs of their own, behind our gateway and behind a real Envoy 1.40, both
//! with the same configuration; and the one processor in all its homes.
//!
//! Parts that cannot be provisioned make their tests *ignored* with the reason; with `EXTPROC_PEERS=require` they fail.

mod client;
mod homes;
mod processors;
mod proxy;
mod upstream;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::provision::Missing;

use crate::proxy::Kind;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let mut trials = vec![
        trial("home/axum", homes::axum),
        trial("home/tonic", homes::tonic),
        trial("home/hyper-client", homes::hyper_client),
        trial("home/observers", homes::observers),
        trial("home/in-process", homes::in_process),
        trial("home/phases", homes::phases),
    ];
    for kind in [Kind::Gateway, Kind::Envoy] {
        trials.extend([
            trial(format!("home/server-behind-{kind}"), move || {
                homes::server(kind)
            }),
            trial(format!("ab-routing/{kind}"), move || {
                processors::ab_routing(kind)
            }),
            trial(format!("json-rewrite/{kind}"), move || {
                processors::json_rewrite(kind)
            }),
            trial(format!("jwt/{kind}"), move || processors::jwt(kind)),
            trial(format!("redact/{kind}"), move || processors::redact(kind)),
            trial(format!("size-guard/{kind}"), move || {
                processors::size_guard(kind)
            }),
            trial(format!("token-counter/{kind}"), move || {
                processors::token_counter(kind)
            }),
            trial(format!("wrong-mode/{kind}"), move || {
                processors::wrong_mode(kind)
            }),
        ]);
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial<F>(name: impl Into<String>, test: impl Fn() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    Trial::ignorable_test(name, move || {
        let runtime = tokio::runtime::Runtime::new().map_err(Failed::from)?;
        match runtime.block_on(test()) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Missing>() {
                Some(missing) => missing.completion(),
                None => Err(Failed::from(format!("{error:#}"))),
            },
        }
    })
}
