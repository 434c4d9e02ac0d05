//! Many scenarios, several at a time, and the summary of what came out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::generate::{self, GROUP};
use super::judge::{Side, Stage, Verdict, differs, judge, places};
use super::known;
use super::shrink::shrink;
use crate::conformance::bootstrap::to_yaml;
use crate::conformance::compare::Difference;
use crate::conformance::scenario;

/// The scenarios to run.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The seed.
    pub seed: u64,
    /// The first index.
    pub first: u64,
    /// The number of scenarios.
    pub count: u64,
    /// Scenarios at a time.
    pub jobs: usize,
    /// More of what the format can say, in scenarios that are others then.
    pub wide: bool,
    /// Smaller scenarios that are tried to find the smallest form of a difference.
    pub tries: usize,
}

/// Counts and names of what came out.
#[derive(Debug, Default)]
pub struct Summary {
    /// Scenarios that ran.
    pub run: usize,
    /// The gateway did what Envoy did.
    pub equal: usize,
    /// Envoy did something else the second time.
    pub unstable: usize,
    /// The gateway differed, and did not when everything ran again.
    pub not_again: usize,
    /// Equal to one of Envoy's outcomes, by scenario: the run of Envoy that showed it.
    pub one_of_envoys: BTreeMap<String, usize>,
    /// The scenarios of deliberate differences, by anchor.
    pub known: BTreeMap<&'static str, Vec<String>>,
    /// Unexplained differences: the scenario, the first difference, the file that has it.
    pub unexplained: BTreeMap<String, (String, Option<PathBuf>)>,
    /// Errors of our own, by scenario.
    pub errors: BTreeMap<String, String>,
}

impl Summary {
    /// Tells whether nothing is left to explain.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unexplained.is_empty() && self.errors.is_empty()
    }

    fn add(&mut self, name: &str, verdict: Verdict, file: Option<PathBuf>) {
        self.run += 1;
        match verdict {
            Verdict::Equal => self.equal += 1,
            Verdict::Unstable => self.unstable += 1,
            Verdict::NotAgain => self.not_again += 1,
            Verdict::Known(anchors) => {
                for anchor in anchors {
                    self.known.entry(anchor).or_default().push(name.to_owned());
                }
            }
            Verdict::OneOfEnvoys(runs) => {
                self.one_of_envoys.insert(name.to_owned(), runs);
            }
            Verdict::Different(found) => {
                let first = found.first().map(ToString::to_string).unwrap_or_default();
                self.unexplained.insert(name.to_owned(), (first, file));
            }
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "run                     {}", self.run)?;
        writeln!(f, "equal                   {}", self.equal)?;
        writeln!(f, "unstable in Envoy       {}", self.unstable)?;
        writeln!(f, "differed only once      {}", self.not_again)?;
        writeln!(f, "one of Envoy's outcomes {}", self.one_of_envoys.len())?;
        for (name, runs) in &self.one_of_envoys {
            writeln!(f, "  {name}: in run {runs} of Envoy")?;
        }
        let known: usize = self.known.values().map(Vec::len).sum();
        writeln!(f, "known differences       {known}")?;
        for (anchor, names) in &self.known {
            writeln!(f, "  {anchor}: {}", names.join(" "))?;
        }
        writeln!(f, "unexplained             {}", self.unexplained.len())?;
        for (name, (first, file)) in &self.unexplained {
            writeln!(f, "  {name}: {first}")?;
            if let Some(file) = file {
                writeln!(f, "    {}", file.display())?;
            }
        }
        for (name, error) in &self.errors {
            writeln!(f, "error in {name}: {error}")?;
        }
        Ok(())
    }
}

/// Runs the scenarios of a range. Of an unexplained difference the smallest form goes to a file in `directory`, ready for
/// `tests/scenarios/`, and beside it the scenario as it was generated.
pub fn search(stage: &impl Stage, range: Range, directory: &Path) -> Summary {
    let next = AtomicU64::new(range.first);
    let end = range.first + range.count;
    let summary = Mutex::new(Summary::default());
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= end {
                break;
            }
            let source = match range.wide {
                true => generate::wide(range.seed, index),
                false => generate::source(range.seed, index),
            };
            if !is_asked_for(stage, &source) {
                continue;
            }
            let outcome = one(stage, &source, range.tries, directory);
            let name = format!("{}-{index}", range.seed);
            let Ok(mut summary) = summary.lock() else {
                break;
            };
            match outcome {
                Ok((verdict, file)) => {
                    if let Verdict::Different(found) = &verdict {
                        eprintln!("{}", description(&name, found));
                    }
                    summary.add(&name, verdict, file);
                }
                Err(error) => {
                    summary.errors.insert(name, format!("{error:#}"));
                }
            }
            if summary.run.is_multiple_of(100) {
                let found = summary.unexplained.len();
                eprintln!("{} run, {found} unexplained", summary.run);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..range.jobs.max(1) {
            scope.spawn(worker);
        }
    });
    summary.into_inner().unwrap_or_default()
}

/// Tells whether a scenario is of interest: all are, but where a deliberate difference is looked into, only those that show it.
fn is_asked_for(stage: &impl Stage, source: &Value) -> bool {
    let Some(anchor) = stage.questioned() else {
        return true;
    };
    scenario::build(GROUP, source.clone()).is_ok_and(|scenario| known::shows_in(anchor, &scenario))
}

/// Runs the scenarios of a file; with `show`, prints before what was seen in a run of each side.
///
/// # Errors
/// When the file is not understood.
pub fn replay(stage: &impl Stage, file: &Path, show: bool) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    for scenario in scenario::read(file)?.scenarios {
        let name = scenario.spec.name.clone();
        if show {
            for side in [Side::Envoy, Side::Gateway] {
                let seen = to_yaml(&stage.observe(side, &scenario)?);
                println!("--- {name}, {side:?}\n{seen}");
            }
        }
        let verdict = judge(stage, &scenario)?;
        if let Verdict::Different(found) = &verdict {
            eprintln!("{}", description(&name, found));
        }
        summary.add(&name, verdict, None);
    }
    Ok(summary)
}

fn one(
    stage: &impl Stage,
    source: &Value,
    tries: usize,
    directory: &Path,
) -> anyhow::Result<(Verdict, Option<PathBuf>)> {
    let scenario = scenario::build(GROUP, source.clone())?;
    let verdict = judge(stage, &scenario)?;
    let Verdict::Different(found) = &verdict else {
        return Ok((verdict, None));
    };
    let places = places(found);
    let small = shrink(source, tries, |candidate| {
        match scenario::build(GROUP, candidate.clone()) {
            Ok(candidate) => differs(stage, &candidate, &places),
            // Not every part can be done without.
            Err(_) => Ok(false),
        }
    })?;
    let found = match judge(stage, &scenario::build(GROUP, small.clone())?)? {
        Verdict::Different(found) => found,
        _ => found.clone(),
    };
    let name = &scenario.spec.name;
    std::fs::create_dir_all(directory)?;
    write(
        &directory.join(format!("{name}-generated.yaml")),
        source,
        &found,
    )?;
    let file = directory.join(format!("{name}.yaml"));
    write(&file, &small, &found)?;
    Ok((Verdict::Different(found), Some(file)))
}

/// A scenario file with what differs above it.
fn write(path: &Path, source: &Value, found: &[Difference]) -> anyhow::Result<()> {
    let mut text = String::new();
    for difference in found {
        let line = difference.to_string().replace('\n', " ");
        let _ = writeln!(text, "# {line}");
    }
    text.push_str(&to_yaml(&json!({"group": GROUP, "scenarios": [source]})));
    std::fs::write(path, text)?;
    Ok(())
}

fn description(name: &str, found: &[Difference]) -> String {
    let mut out = format!("{name} differs:");
    for difference in found {
        let _ = write!(out, "\n  {difference}");
    }
    out
}
