//! The gateway beside a real Envoy under random scenarios. `docs/conformance.md` says how to read what comes out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tests::conformance::run::Target;
use tests::differential::judge::Programs;
use tests::differential::known;
use tests::differential::search::{Range, replay, search};
use tests::provision;

/// Runs random scenarios with Envoy 1.40 and with the gateway, and shrinks what differs to its smallest form.
///
/// Exits with 1 if a difference is left that nothing explains. EXTPROC_ENVOY and EXTPROC_TARGET choose other programs, as
/// in the conformance suite.
#[derive(Debug, Parser)]
#[command(name = "differential")]
struct Options {
    /// The seed: a scenario depends on it and its index alone.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The index of the first scenario.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Number of scenarios.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Scenarios at a time. They wait more than they work.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Says more of what the format can say. The scenarios of a seed are others then.
    #[arg(long, conflicts_with = "replay")]
    wide: bool,
    /// Smaller scenarios to try per difference; 0 leaves it as it was generated.
    #[arg(long, default_value_t = 200)]
    tries: usize,
    /// Directory for files of unexplained differences [default: target/differential].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Looks into a deliberate difference: runs only the scenarios of the range in which its anchor shows, and reports what
    /// it explains as unexplained.
    #[arg(long, value_name = "ANCHOR")]
    known: Option<String>,
    /// Runs the scenarios of this file instead.
    #[arg(long, conflicts_with_all = ["seed", "first", "count"])]
    replay: Option<PathBuf>,
    /// Prints what was seen in a run of each side.
    #[arg(long, requires = "replay")]
    show: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(anchor) = &options.known {
        anyhow::ensure!(
            known::has(anchor),
            "no deliberate difference has the anchor {anchor:?}"
        );
    }
    let directory = provision::target_directory().join("differential");
    let stage = Programs {
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
        envoy: Target::envoy(&provision::envoy()?),
        gateway: Target::under_test()?,
        directory: directory.join("run"),
        questioned: options.known,
    };
    let summary = match &options.replay {
        Some(file) => replay(&stage, file, options.show)?,
        None => {
            let range = Range {
                seed: options.seed,
                first: options.first,
                count: options.count,
                jobs: options.jobs,
                wide: options.wide,
                tries: options.tries,
            };
            search(&stage, range, &options.out.unwrap_or(directory))
        }
    };
    print!("{summary}");
    Ok(match summary.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
