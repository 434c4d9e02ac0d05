//! A short run of the differential tool: random scenarios, the gateway beside a real Envoy. `docs/conformance.md` says how to
//! run many more.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::conformance::bootstrap::{self, Ports};
use tests::conformance::run::Target;
use tests::differential::generate;
use tests::differential::judge::{Programs, Verdict, judge};
use tests::provision::{self, Missing};

/// Scenarios at a time. They wait more than they work.
const AT_ONCE: usize = 8;

/// The scenarios: seed, and which indices.
/// In those left out between, an upstream that resets its connection races with the answer of a processor, or that answer with the
/// rest of a large body.
const RANGES: [(u64, Range<u64>); 4] = [(1, 83..116), (1, 117..137), (1, 138..150), (1, 151..162)];

/// Configurations that Envoy looks at, and how many it may refuse.
const LOOKED_AT: u64 = 100;
const REFUSED: usize = 5;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let programs: Arc<OnceLock<Result<Programs, Prepared>>> = Arc::default();
    let mut trials = vec![Trial::ignorable_test(
        "envoy-takes-what-is-generated",
        taken,
    )];
    for (seed, indices) in RANGES {
        for index in indices {
            let programs = Arc::clone(&programs);
            let name = format!("{}/{seed}-{index}", generate::GROUP);
            trials.push(Trial::ignorable_test(name, move || {
                trial(programs.get_or_init(prepare), seed, index)
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Reasons that nothing can run.
enum Prepared {
    Missing(Missing),
    Failed(String),
}

fn prepare() -> Result<Programs, Prepared> {
    let failed = |error: &dyn std::fmt::Display| Prepared::Failed(format!("{error:#}"));
    Ok(Programs {
        envoy: Target::envoy(&provision::envoy().map_err(Prepared::Missing)?),
        gateway: Target::under_test().map_err(|error| failed(&error))?,
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?,
        directory: provision::target_directory().join("differential/run"),
        questioned: None,
    })
}

fn trial(
    programs: &Result<Programs, Prepared>,
    seed: u64,
    index: u64,
) -> Result<Completion, Failed> {
    let programs = match programs {
        Ok(programs) => programs,
        Err(Prepared::Missing(missing)) => return missing.completion(),
        Err(Prepared::Failed(error)) => return Err(error.into()),
    };
    let scenario = generate::scenario(seed, index).map_err(|error| format!("{error:#}"))?;
    match judge(programs, &scenario).map_err(|error| format!("{error:#}"))? {
        Verdict::Different(found) => {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(lines.join("\n").into())
        }
        _ => Ok(Completion::Completed),
    }
}

/// Scenarios are valid: Envoy takes their configurations, all but a few that are there to be refused.
fn taken() -> Result<Completion, Failed> {
    let envoy = match provision::envoy() {
        Ok(envoy) => envoy,
        Err(missing) => return missing.completion(),
    };
    let file = provision::target_directory().join("differential/run/validated.yaml");
    let mut refused = Vec::new();
    for index in 0..LOOKED_AT {
        if let Some(reason) = refusal(&envoy, &file, index).map_err(|error| format!("{error:#}"))? {
            refused.push(reason);
        }
    }
    match refused.len() > REFUSED {
        true => Err(format!("{} refused:\n{}", refused.len(), refused.join("\n")).into()),
        false => Ok(Completion::Completed),
    }
}

/// Gives the reason for which Envoy refuses a configuration, if it does.
fn refusal(envoy: &Path, file: &Path, index: u64) -> anyhow::Result<Option<String>> {
    let scenario = generate::scenario(0, index)?;
    let bootstrap = bootstrap::render(&scenario, &Ports::default(), "/dev/null");
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(file, bootstrap::to_yaml(&bootstrap))?;
    let output = Command::new(envoy)
        .args([
            "--mode",
            "validate",
            "--disable-hot-restart",
            "-l",
            "error",
            "-c",
        ])
        .arg(file)
        .output()?;
    let reason = String::from_utf8_lossy(&output.stderr);
    Ok((!output.status.success()).then(|| format!("0-{index}: {reason}")))
}
