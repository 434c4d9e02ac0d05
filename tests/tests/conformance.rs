//! The differential conformance suite: one test per scenario in `tests/scenarios/`.
//!
//! | Environment | Effect |
//! |---|---|
//! | (nothing) | our gateway against the recorded observations in `tests/golden/` |
//! | `EXTPROC_CONFORMANCE=live` | our gateway against an Envoy that runs beside it |
//! | `EXTPROC_CONFORMANCE=record` | runs Envoy twice (20 times where inputs race) and records; arguments filter as usual |
//! | `EXTPROC_CONFORMANCE_REPORT=1` | writes `docs/conformance.md` after a full run |
//! | `EXTPROC_ENVOY=path` | this Envoy, in place of the provisioned one |
//! | `EXTPROC_TARGET=command` | this proxy in place of our gateway; `{config}` is the configuration file |

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde::Deserialize;
use serde_json::Value;
use tests::conformance::compare::{Difference, differences};
use tests::conformance::golden::{self, Golden};
use tests::conformance::normalise::observation;
use tests::conformance::report::{self, GroupOutcomes, Outcome};
use tests::conformance::run::{Target, run};
use tests::conformance::scenario::{self, OUTCOMES, Scenario};
use tests::provision;
use tokio::runtime::Runtime;

/// Scenarios at a time. They wait more than they work, so this is well above the number of cores.
const AT_ONCE: usize = 8;

/// Runs of a scenario before a difference counts. What a proxy does depends on what has arrived when (is a body complete
/// when the reply to the headers comes?), so one run out of a few may take the other way, Envoy's included.
const TRIES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Golden,
    Live,
    Record,
}

struct Suite {
    mode: Mode,
    runtime: Runtime,
    /// Files of runs: configurations, logs.
    directory: PathBuf,
    golden: BTreeMap<String, golden::Group>,
    recorded: Mutex<BTreeMap<String, golden::Group>>,
    outcomes: Mutex<BTreeMap<String, BTreeMap<String, Outcome>>>,
    /// Differences of runs that were tried again, by scenario.
    again: Mutex<BTreeMap<String, Vec<String>>>,
}

/// A change of the gateway's configuration that the suite must notice.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    /// Merged into the configuration of every ext_proc filter.
    change: Value,
    /// The scenarios to run, as `group/name`; in every one of them the change must be seen.
    scenarios: Vec<String>,
}

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
    let mode = match std::env::var("EXTPROC_CONFORMANCE").as_deref() {
        Err(_) | Ok("") => Mode::Golden,
        Ok("live") => Mode::Live,
        Ok("record") => Mode::Record,
        Ok(other) => anyhow::bail!("EXTPROC_CONFORMANCE={other}: neither live nor record"),
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut groups = scenario::load(&root.join("scenarios"))?;
    mark_differences(&root, &mut groups)?;
    let golden_directory = root.join("golden");
    let golden = groups
        .iter()
        .map(|g| Ok((g.name.clone(), golden::read(&golden_directory, &g.name)?)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let suite = Arc::new(Suite {
        mode,
        runtime: tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
        directory: provision::target_directory().join("conformance"),
        golden: golden.clone(),
        recorded: Mutex::new(golden),
        outcomes: Mutex::default(),
        again: Mutex::default(),
    });
    let mut trials = Vec::new();
    for group in &groups {
        for scenario in &group.scenarios {
            let name = format!("{}/{}", group.name, scenario.spec.name);
            let suite = Arc::clone(&suite);
            let scenario = scenario.clone();
            trials.push(Trial::ignorable_test(name, move || suite.trial(&scenario)));
        }
    }
    if mode == Mode::Golden {
        for mutation in mutations(&root)? {
            let scenarios = find(&groups, &mutation)?;
            let suite = Arc::clone(&suite);
            let name = format!("mutation/{}", mutation.name);
            trials.push(Trial::ignorable_test(name, move || {
                suite.mutated(&mutation, &scenarios)
            }));
        }
    }
    let document = root.join("../docs/conformance.md");
    let writes = std::env::var_os("EXTPROC_CONFORMANCE_REPORT").is_some();
    if mode == Mode::Golden && !writes {
        let (document, table) = (document.clone(), report::table(&expected(&groups)));
        trials.push(Trial::test("document/table", move || {
            let text = std::fs::read_to_string(&document)?;
            match text.contains(&table) {
                true => Ok(()),
                false => Err(stale(&text, &table).into()),
            }
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        suite.report_tries();
    }
    if mode == Mode::Record && !arguments.list {
        suite.write_recorded(&golden_directory, &groups, &arguments)?;
    }
    let everything = conclusion.num_filtered_out == 0 && !arguments.list;
    if writes && everything {
        let outcomes = suite.outcomes.lock().map(|o| o.clone()).unwrap_or_default();
        let groups: Vec<_> = groups
            .iter()
            .map(|group| {
                let entry = GroupOutcomes {
                    about: group.about.clone(),
                    outcomes: outcomes.get(&group.name).cloned().unwrap_or_default(),
                };
                (group.name.clone(), entry)
            })
            .collect();
        std::fs::write(document, report::document(&groups))?;
    }
    Ok(conclusion.exit_code())
}

/// The outcomes that a run without failures has.
fn expected(groups: &[scenario::Group]) -> Vec<(String, GroupOutcomes)> {
    let outcome = |scenario: &Scenario| match &scenario.spec.differs {
        Some(anchor) => Outcome::Deliberate(anchor.clone()),
        None => Outcome::Equal,
    };
    groups
        .iter()
        .map(|group| {
            let outcomes = group.scenarios.iter();
            let entry = GroupOutcomes {
                about: group.about.clone(),
                outcomes: outcomes
                    .map(|s| (s.spec.name.clone(), outcome(s)))
                    .collect(),
            };
            (group.name.clone(), entry)
        })
        .collect()
}

/// Lines of the table that `docs/conformance.md` does not have.
fn stale(text: &str, table: &str) -> String {
    let known: BTreeSet<&str> = text.lines().collect();
    let missing: Vec<&str> = table.lines().filter(|l| !known.contains(l)).collect();
    let missing = match missing.is_empty() {
        true => "it has lines too many".to_owned(),
        false => missing.join("\n"),
    };
    format!(
        "docs/conformance.md does not list the scenarios as they are; EXTPROC_CONFORMANCE_REPORT=1 and a whole run write \
         it, or put it right by hand:\n{missing}"
    )
}

/// `differences.yaml`: scenarios that differ on purpose, by the anchor in `docs/differences-from-envoy.md`.
fn mark_differences(root: &Path, groups: &mut [scenario::Group]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(root.join("differences.yaml"))?;
    let document = std::fs::read_to_string(root.join("../docs/differences-from-envoy.md"))?;
    let listed: BTreeMap<String, Vec<String>> = serde_saphyr::from_str(&text)?;
    for (anchor, names) in listed {
        let heading = format!("<a id=\"{anchor}\"></a>");
        anyhow::ensure!(
            document.contains(&heading),
            "differences.yaml: {anchor} is not in docs/differences-from-envoy.md"
        );
        for name in names {
            let scenario = groups
                .iter_mut()
                .flat_map(|group| &mut group.scenarios)
                .find(|s| format!("{}/{}", s.group, s.spec.name) == name)
                .ok_or_else(|| anyhow::anyhow!("differences.yaml: no scenario {name}"))?;
            scenario.spec.differs = Some(anchor.clone());
        }
    }
    Ok(())
}

fn mutations(root: &Path) -> anyhow::Result<Vec<Mutation>> {
    let text = std::fs::read_to_string(root.join("mutations.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
}

fn find(groups: &[scenario::Group], mutation: &Mutation) -> anyhow::Result<Vec<Scenario>> {
    let all = || groups.iter().flat_map(|g| &g.scenarios);
    mutation
        .scenarios
        .iter()
        .map(|wanted| {
            all()
                .find(|s| format!("{}/{}", s.group, s.spec.name) == *wanted)
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("mutations.yaml: no scenario {wanted}"))
        })
        .collect()
}

impl Suite {
    fn trial(&self, scenario: &Scenario) -> Result<Completion, Failed> {
        match self.mode {
            Mode::Golden => self.compare_with_golden(scenario),
            Mode::Live => self.compare_live(scenario),
            Mode::Record => self.record(scenario),
        }
    }

    fn compare_with_golden(&self, scenario: &Scenario) -> Result<Completion, Failed> {
        let golden = self.golden(scenario)?;
        let target = target()?;
        let skip = skipped(scenario, &golden.unstable);
        let mut seen = self.observe(scenario, &target, &self.directory, None)?;
        let mut found = golden.nearest(&seen, &skip);
        let mut tries = 1;
        while tries < TRIES && !found.is_empty() && scenario.spec.differs.is_none() {
            self.note_try(scenario, &found);
            seen = self.observe(scenario, &target, &self.directory, None)?;
            found = golden.nearest(&seen, &skip);
            tries += 1;
        }
        if tries == TRIES && found.is_empty() && self.needs_one_try(scenario, golden, &skip)? {
            return Err("equal in the last try alone, where Envoy is in each".into());
        }
        self.judge(scenario, &found, &golden.unstable)
    }

    /// Tells if Envoy, beside everything that runs now, does in each of as many tries what was recorded of it.
    fn needs_one_try(
        &self,
        scenario: &Scenario,
        golden: &Golden,
        skip: &[String],
    ) -> Result<bool, Failed> {
        let Ok(envoy) = provision::envoy() else {
            return Ok(false);
        };
        let envoy = Target::envoy(&envoy);
        for _ in 0..TRIES {
            let seen = self.observe(scenario, &envoy, &self.directory, None)?;
            if !golden.nearest(&seen, skip).is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn compare_live(&self, scenario: &Scenario) -> Result<Completion, Failed> {
        let envoy = match provision::envoy() {
            Ok(envoy) => Target::envoy(&envoy),
            Err(missing) => return missing.completion(),
        };
        let unstable = self
            .golden(scenario)
            .map(|g| g.unstable.clone())
            .unwrap_or_default();
        let target = target()?;
        let skip = skipped(scenario, &unstable);
        let mut want = self.observe(scenario, &envoy, &self.directory, None)?;
        let mut seen = self.observe(scenario, &target, &self.directory, None)?;
        let tries = if scenario.spec.races { OUTCOMES } else { TRIES };
        for _ in 1..tries {
            let equal = differences(&want, &seen, &skip).is_empty();
            if equal || scenario.spec.differs.is_some() {
                break;
            }
            if !scenario.spec.races {
                self.note_try(scenario, &differences(&want, &seen, &skip));
            }
            want = self.observe(scenario, &envoy, &self.directory, None)?;
            // With races, it is one outcome that has to be among Envoy's.
            if !scenario.spec.races {
                seen = self.observe(scenario, &target, &self.directory, None)?;
            }
        }
        self.judge(scenario, &differences(&want, &seen, &skip), &unstable)
    }

    fn note_try(&self, scenario: &Scenario, found: &[Difference]) {
        if let (Ok(mut again), Some(first)) = (self.again.lock(), found.first()) {
            let name = format!("{}/{}", scenario.group, scenario.spec.name);
            again.entry(name).or_default().push(first.to_string());
        }
    }

    /// Tells which scenarios were equal, or different, only after more than one try.
    fn report_tries(&self) {
        let Ok(again) = self.again.lock() else { return };
        println!("scenarios that needed more than one try: {}", again.len());
        for (name, found) in again.iter() {
            println!("  {name}: {} tries", found.len() + 1);
            for first in found {
                println!("    {first}");
            }
        }
    }

    fn record(&self, scenario: &Scenario) -> Result<Completion, Failed> {
        let envoy = match provision::envoy() {
            Ok(envoy) => Target::envoy(&envoy),
            Err(missing) => return missing.completion(),
        };
        let skip = &scenario.spec.compare.skip;
        let first = self.observe(scenario, &envoy, &self.directory, None)?;
        let mut golden = Golden {
            digest: scenario.digest.clone(),
            unstable: Vec::new(),
            observation: first,
            others: Vec::new(),
        };
        if scenario.spec.races {
            // What was seen once stays, until the file is removed.
            let old = self.golden(scenario).ok().cloned();
            let known = old.into_iter().flat_map(|old| {
                let Golden {
                    observation,
                    others,
                    ..
                } = old;
                others.into_iter().chain([observation])
            });
            for outcome in known {
                golden.add(outcome, skip);
            }
            for _ in 1..OUTCOMES {
                let outcome = self.observe(scenario, &envoy, &self.directory, None)?;
                golden.add(outcome, skip);
            }
        } else {
            let second = self.observe(scenario, &envoy, &self.directory, None)?;
            golden.unstable = self.unstable(scenario, &golden.observation, &second);
        }
        if let Ok(mut recorded) = self.recorded.lock() {
            let group = recorded.entry(scenario.group.clone()).or_default();
            group.insert(scenario.spec.name.clone(), golden);
        }
        Ok(Completion::Completed)
    }

    /// The paths at which Envoy differs from itself, now or when it was recorded before.
    fn unstable(&self, scenario: &Scenario, first: &Value, second: &Value) -> Vec<String> {
        let skip = &scenario.spec.compare.skip;
        let mut unstable: Vec<String> = differences(first, second, skip)
            .iter()
            .map(|d| d.path.join("/"))
            .collect();
        if let Ok(old) = self.golden(scenario) {
            // what was unstable once stays marked, until the file is removed
            let seen = differences(&old.observation, second, skip);
            let seen = seen.iter().map(|d| d.path.join("/"));
            unstable.extend(old.unstable.iter().cloned().chain(seen));
        }
        unstable.sort();
        unstable.dedup();
        unstable
    }

    fn golden(&self, scenario: &Scenario) -> Result<&Golden, Failed> {
        let name = &scenario.spec.name;
        let golden = self.golden.get(&scenario.group).and_then(|g| g.get(name));
        match golden {
            None => Err("no recorded observation: run with EXTPROC_CONFORMANCE=record".into()),
            Some(golden) if golden.digest != scenario.digest => {
                Err("changed since it was recorded: run with EXTPROC_CONFORMANCE=record".into())
            }
            Some(golden) => Ok(golden),
        }
    }

    fn observe(
        &self,
        scenario: &Scenario,
        target: &Target,
        directory: &Path,
        change: Option<&Value>,
    ) -> Result<Value, Failed> {
        let run = self
            .runtime
            .block_on(run(scenario, target, directory, change))
            .map_err(|error| Failed::from(format!("{error:#}")))?;
        if !run.output.is_empty() && !scenario.spec.rejected {
            eprintln!(
                "{}/{}: {}: {}",
                scenario.group, scenario.spec.name, target.name, run.output
            );
        }
        Ok(observation(scenario, &run))
    }

    fn judge(
        &self,
        scenario: &Scenario,
        found: &[Difference],
        unstable: &[String],
    ) -> Result<Completion, Failed> {
        let outcome = match (&scenario.spec.differs, found.first()) {
            (Some(anchor), _) => Outcome::Deliberate(anchor.clone()),
            (None, Some(first)) => Outcome::Different(first.to_string()),
            (None, None) if unstable.is_empty() => Outcome::Equal,
            (None, None) => Outcome::EqualWhereStable,
        };
        if let Ok(mut outcomes) = self.outcomes.lock() {
            let group = outcomes.entry(scenario.group.clone()).or_default();
            group.insert(scenario.spec.name.clone(), outcome);
        }
        match (&scenario.spec.differs, found.is_empty()) {
            (None, true) | (Some(_), false) => Ok(Completion::Completed),
            (Some(anchor), true) => Err(format!(
                "no difference any more: remove `differs: {anchor}` and its entry in the list"
            )
            .into()),
            (None, false) => Err(message(scenario, found).into()),
        }
    }

    /// Runs the scenarios with the change and without it: the gateway must serve both times, and be seen to differ.
    fn mutated(&self, mutation: &Mutation, scenarios: &[Scenario]) -> Result<Completion, Failed> {
        let target = target()?;
        let directory = self.directory.join("mutation").join(&mutation.name);
        let mut unnoticed = Vec::new();
        for scenario in scenarios {
            let golden = self.golden(scenario)?;
            let plain = self.observe(scenario, &target, &directory, None)?;
            let changed = self.observe(scenario, &target, &directory, Some(&mutation.change))?;
            let skip = skipped(scenario, &golden.unstable);
            let served = plain["proxy"] == "ran" && changed["proxy"] == "ran";
            if !served || differences(&plain, &changed, &skip).is_empty() {
                unnoticed.push(format!("{}/{}", scenario.group, scenario.spec.name));
            }
        }
        if unnoticed.is_empty() {
            Ok(Completion::Completed)
        } else {
            Err(format!("not noticed in {}", unnoticed.join(", ")).into())
        }
    }

    fn write_recorded(
        &self,
        directory: &Path,
        groups: &[scenario::Group],
        arguments: &Arguments,
    ) -> anyhow::Result<()> {
        let recorded = self.recorded.lock().map(|r| r.clone()).unwrap_or_default();
        for group in groups {
            let mut goldens = recorded.get(&group.name).cloned().unwrap_or_default();
            goldens.retain(|name, _| group.scenarios.iter().any(|s| s.spec.name == *name));
            golden::write(directory, &group.name, &goldens)?;
            for (name, golden) in &goldens {
                let full = format!("{}/{name}", group.name);
                let chosen = arguments
                    .filter
                    .as_ref()
                    .is_none_or(|f| full.contains(f.as_str()));
                if chosen && !golden.unstable.is_empty() {
                    println!("unstable: {full}: {}", golden.unstable.join(", "));
                }
            }
        }
        Ok(())
    }
}

/// The paths that are not compared.
fn skipped(scenario: &Scenario, unstable: &[String]) -> Vec<String> {
    [&scenario.spec.compare.skip, unstable].concat()
}

fn message(scenario: &Scenario, found: &[Difference]) -> String {
    let mut lines = vec![scenario.spec.about.clone()];
    lines.extend(found.iter().take(12).map(ToString::to_string));
    if found.len() > 12 {
        lines.push(format!("… and {} more", found.len() - 12));
    }
    lines.retain(|line| !line.is_empty());
    lines.join("\n")
}

fn target() -> Result<Target, Failed> {
    Target::under_test().map_err(|error| Failed::from(format!("{error:#}")))
}
