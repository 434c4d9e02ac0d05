//! The wire suite: one test per case in `tests/wire/`, and one that shows that a careless proxy fails them.
//!
//! | Environment | Effect |
//! |---|---|
//! | (nothing) | our gateway |
//! | `EXTPROC_WIRE_TARGET=envoy` | the real Envoy; the count of wrong cases is the point, not that all pass |
//! | `EXTPROC_TARGET=command` | this proxy; `{config}` is the configuration file |
//! | `EXTPROC_ENVOY=path` | this Envoy, in place of the provisioned one |
//! | `EXTPROC_WIRE_CASES=directory` | the cases in this directory, in place of those in `tests/wire/` |

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::conformance::run::Target;
use tests::provision;
use tests::wire::target::{self, Prepared};
use tests::wire::{careless, case, h2spec, rules, run};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Cases at a time. They wait more than they work.
const AT_ONCE: usize = 16;

/// The longest that a case waits for one thing.
const LIMIT: Duration = Duration::from_secs(10);

/// The same against a proxy that is expected to leave a case waiting.
const CARELESS_LIMIT: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    match suite() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn suite() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("wire");
    let others = std::env::var_os("EXTPROC_WIRE_CASES").map(PathBuf::from);
    let cases = case::load(&others.clone().unwrap_or_else(own))?;
    let ids: Vec<String> = cases.iter().map(|case| case.id.clone()).collect();
    let plain: Vec<_> = cases
        .iter()
        .filter(|case| case.is_plain_http1())
        .cloned()
        .collect();
    let runtime = Runtime::new()?;
    let mut trials = Vec::new();
    let prepared = cases
        .into_iter()
        .map(Prepared::new)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut process = None;
    if !arguments.list {
        let directory = provision::target_directory().join("wire");
        let target = chosen()?;
        process = Some(runtime.block_on(target::start(&target, &prepared, &directory))?);
    }
    for one in prepared {
        let handle = runtime.handle().clone();
        trials.push(Trial::test(one.case.name.clone(), move || {
            handle.block_on(trial(&one)).map_err(failed)
        }));
    }
    if std::env::var_os("EXTPROC_WIRE_TARGET").is_none() && others.is_none() {
        let handle = runtime.handle().clone();
        trials.push(Trial::ignorable_test("h2spec", move || {
            match handle.block_on(h2spec::run()).map_err(failed)? {
                Ok(()) => Ok(Completion::Completed),
                Err(missing) => missing.completion(),
            }
        }));
        trials.push(Trial::test("every rule is tried or explained", move || {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
            rules::check(&root, ids.iter().map(String::as_str)).map_err(failed)
        }));
        let handle = runtime.handle().clone();
        trials.push(Trial::test("a careless proxy fails", move || {
            handle.block_on(careless_proxy(plain)).map_err(failed)
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(status) = process.as_mut().and_then(|process| process.ended()) {
        anyhow::bail!("the proxy ended while it served: {status}");
    }
    Ok(conclusion.exit_code())
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

fn chosen() -> anyhow::Result<Target> {
    if let Ok(line) = std::env::var("EXTPROC_TARGET") {
        return Ok(Target::command("other", &line));
    }
    match std::env::var("EXTPROC_WIRE_TARGET").as_deref() {
        Err(_) | Ok("") => {
            let program = provision::workspace_binary("gateway", "gateway")?;
            Ok(Target::gateway(&program))
        }
        Ok("envoy") => Ok(Target::envoy(&provision::envoy()?)),
        Ok(other) => anyhow::bail!("EXTPROC_WIRE_TARGET={other}: only envoy is known"),
    }
}

async fn trial(one: &Prepared) -> anyhow::Result<()> {
    let processor = one.processor()?;
    let upstream = one.upstream()?;
    let result = run::play(Arc::clone(&one.case), one.proxy, upstream, LIMIT).await;
    drop(processor);
    result.map_err(|error| anyhow::anyhow!("[{}] {error}", one.case.id))
}

/// Cases that say nothing but HTTP/1 run against the careless proxy; most of them must find it out.
async fn careless_proxy(cases: Vec<case::Case>) -> anyhow::Result<()> {
    let mut runs = JoinSet::new();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let total = cases.len();
    for one in cases {
        let room = Arc::clone(&room);
        runs.spawn(async move {
            let _turn = room.acquire().await?;
            against_careless(one).await
        });
    }
    let mut red = 0;
    while let Some(result) = runs.join_next().await {
        red += usize::from(!result??);
    }
    println!("careless proxy: {red} of {total} plain HTTP/1 cases are red");
    anyhow::ensure!(
        total > 0 && red * 2 > total,
        "only {red} of {total} cases turn red against a careless proxy"
    );
    Ok(())
}

async fn against_careless(case: case::Case) -> anyhow::Result<bool> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let proxy = listener.local_addr().context("the proxy's address")?;
    let serving = tokio::spawn(careless::serve(listener, upstream.local_addr()?));
    let result = run::play(Arc::new(case), proxy, upstream, CARELESS_LIMIT).await;
    serving.abort();
    Ok(result.is_ok())
}
