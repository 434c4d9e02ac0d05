//! One scenario with Envoy and with the gateway: equal, or how not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::known::{
    self,
    scenario::{has_field, mentions},
};
use crate::conformance::compare::{Difference, differences};
use crate::conformance::normalise::observation;
use crate::conformance::run::{Target, run};
use crate::conformance::scenario::{OUTCOMES, Scenario};
use crate::support::client::ClientScript;

/// Longest run. Every peer's wait has a limit of its own, which a busy machine stretches; this one is for what has none.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Bytes of a body that a proxy has of one read at most: a frame of HTTP/2.
const ONE_READ: usize = 16 * 1024;

/// The two that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Envoy.
    Envoy,
    /// Our gateway.
    Gateway,
}

/// Plays scenarios.
pub trait Stage: Sync {
    /// Returns the observation of one run.
    ///
    /// # Errors
    /// When something of our own fails: a socket, a file, a program that cannot be started.
    fn observe(&self, side: Side, scenario: &Scenario) -> anyhow::Result<Value>;

    /// The anchor of a deliberate difference that explains nothing here, so that what it hides is found.
    fn questioned(&self) -> Option<&str> {
        None
    }
}

/// Plays scenarios with real programs.
#[derive(Debug)]
pub struct Programs {
    /// The runtime of the peers.
    pub runtime: Runtime,
    /// Envoy.
    pub envoy: Target,
    /// Our gateway.
    pub gateway: Target,
    /// Configurations and logs of runs.
    pub directory: PathBuf,
    /// The anchor of a deliberate difference that is to be looked into.
    pub questioned: Option<String>,
}

impl Stage for Programs {
    fn observe(&self, side: Side, scenario: &Scenario) -> anyhow::Result<Value> {
        let target = match side {
            Side::Envoy => &self.envoy,
            Side::Gateway => &self.gateway,
        };
        let run = run(scenario, target, &self.directory, None);
        let run = self.runtime.block_on(async {
            // A run that hangs is an observation as well.
            tokio::time::timeout(RUN_LIMIT, run).await
        });
        match run {
            Ok(run) => Ok(observation(scenario, &run?)),
            Err(_) => Ok(json!({"proxy": "hangs"})),
        }
    }

    fn questioned(&self) -> Option<&str> {
        self.questioned.as_deref()
    }
}

/// The outcome of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The gateway does what Envoy does.
    Equal,
    /// Envoy itself did something else the second time.
    Unstable,
    /// The gateway differed once, and not when everything was run again.
    NotAgain,
    /// It differs as the list of deliberate differences says, by these names.
    Known(BTreeSet<&'static str>),
    /// Inputs arrive at the same moment, and in one of this many runs Envoy did what the gateway does.
    OneOfEnvoys(usize),
    /// It differs.
    Different(Vec<Difference>),
}

/// The meaning of an observation of the gateway beside one of Envoy's.
enum Beside {
    Equal,
    Known(BTreeSet<&'static str>),
    Different(Vec<Difference>),
}

impl Beside {
    fn of(stage: &impl Stage, scenario: &Scenario, envoy: &Value, gateway: &Value) -> Self {
        let found = differences(envoy, gateway, &scenario.spec.compare.skip);
        if found.is_empty() {
            return Self::Equal;
        }
        let (names, unexplained) = known::explain(scenario, stage.questioned(), found);
        match unexplained.is_empty() {
            true => Self::Known(names),
            false => Self::Different(unexplained),
        }
    }
}

/// Plays the scenario as often as it takes: once with each where they are equal; otherwise twice, since Envoy has to agree with
/// itself, and a difference has to be there again.
///
/// # Errors
/// When something of our own fails.
pub fn judge(stage: &impl Stage, scenario: &Scenario) -> anyhow::Result<Verdict> {
    let first = stage.observe(Side::Envoy, scenario)?;
    let seen = stage.observe(Side::Gateway, scenario)?;
    match Beside::of(stage, scenario, &first, &seen) {
        Beside::Equal => return Ok(Verdict::Equal),
        Beside::Known(names) => return Ok(Verdict::Known(names)),
        Beside::Different(_) => {}
    }
    let again = stage.observe(Side::Envoy, scenario)?;
    if !differences(&first, &again, &scenario.spec.compare.skip).is_empty() {
        return Ok(Verdict::Unstable);
    }
    let seen_again = stage.observe(Side::Gateway, scenario)?;
    let Beside::Different(found) = Beside::of(stage, scenario, &again, &seen_again) else {
        return Ok(Verdict::NotAgain);
    };
    if at_the_same_moment(scenario) {
        for runs in 3..=OUTCOMES {
            let outcome = stage.observe(Side::Envoy, scenario)?;
            if !matches!(
                Beside::of(stage, scenario, &outcome, &seen_again),
                Beside::Different(_)
            ) {
                return Ok(Verdict::OneOfEnvoys(runs));
            }
        }
    }
    Ok(Verdict::Different(found))
}

/// Tells whether a difference is there, twice, at one of these [`places`].
///
/// # Errors
/// When something of our own fails.
pub fn differs(
    stage: &impl Stage,
    scenario: &Scenario,
    places: &BTreeSet<String>,
) -> anyhow::Result<bool> {
    for _ in 0..2 {
        let envoy = stage.observe(Side::Envoy, scenario)?;
        let gateway = stage.observe(Side::Gateway, scenario)?;
        let Beside::Different(found) = Beside::of(stage, scenario, &envoy, &gateway) else {
            return Ok(false);
        };
        let found = self::places(&found);
        // A configuration that one of the two refuses is another matter.
        if found.is_disjoint(places) || found.contains("proxy") != places.contains("proxy") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Kinds of places where observations differ: paths without numbers.
#[must_use]
pub fn places(found: &[Difference]) -> BTreeSet<String> {
    let is_name = |step: &&str| step.parse::<usize>().is_err();
    found
        .iter()
        .map(|difference| {
            let steps = difference.path.iter().map(String::as_str);
            steps.filter(is_name).collect::<Vec<_>>().join("/")
        })
        .collect()
}

/// Tells whether inputs of the proxy arrive at the same moment, so that their order is the machine's choice: a reply and the end
/// of a stream, two failures, an upstream's response and the rest of a request.
#[must_use]
pub fn at_the_same_moment(scenario: &Scenario) -> bool {
    use crate::support::script::Part;
    use crate::support::upstream::Wait;

    let script = scenario.source.get("processor").unwrap_or(&Value::Null);
    let breaks_off = |u: &crate::support::upstream::UpstreamScript| {
        u.wait != Wait::Body || u.reset.is_some() || u.close || u.refuse
    };
    // As a body of which no read gives all, or one that is read in pieces for want of room.
    let most = scenario.spec.limits.listener.map_or(ONE_READ, |limit| {
        ONE_READ.min(usize::try_from(limit).unwrap_or(ONE_READ))
    });
    let in_one_go = |body: &crate::support::script::Body| {
        let several = |parts: &[Part]| parts.iter().all(|part| matches!(part, Part::Data(_)));
        body.size() > most || body.parts().windows(2).any(several)
    };
    // A body that was asked for comes as soon as the reply that lets the request's head go on to whoever answers it at once.
    let answers = ["direct_response", "redirect"];
    let answered_at_once = answers
        .iter()
        .any(|action| mentions(&scenario.source, action))
        || scenario.upstreams.values().any(|u| u.absent);
    let expects = |c: &ClientScript| has_field(&c.headers, "expect");
    scenario.spec.races
        || scenario.spec.parallel
        || answered_at_once && scenario.clients.iter().any(expects)
        || has_burst(script)
        || scenario.upstreams.values().any(breaks_off)
        || scenario.upstreams.values().any(|u| in_one_go(&u.body))
        || scenario
            .clients
            .iter()
            .any(|c| c.cancel.is_some() || in_one_go(&c.body))
}

/// Tells whether a processor does several things without a pause between them, or ends its stream by itself.
fn has_burst(script: &Value) -> bool {
    match script {
        Value::String(word) => ["close", "abort", "goaway"].contains(&word.as_str()),
        Value::Array(steps) => {
            let acts = |step: &Value| step.get("sleep").is_none();
            steps.windows(2).any(|two| two.iter().all(acts)) || steps.iter().any(has_burst)
        }
        Value::Object(map) => map.iter().any(|(name, value)| match name.as_str() {
            "error" | "reset" | "http" => true,
            "set" | "remove" | "headers" | "trailers" | "body" | "stream" => false,
            _ => has_burst(value),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::conformance::scenario::build;

    /// Plays what it is told: Envoy's observations and the gateway's, one after the other, the last one again and again.
    struct Played(Mutex<[VecDeque<Value>; 2]>);

    impl Played {
        fn new(envoy: &[&str], gateway: &[&str]) -> Self {
            let statuses = |list: &[&str]| {
                let clients = list
                    .iter()
                    .map(|status| json!({"client": [{"head": status}]}));
                clients.collect()
            };
            Self(Mutex::new([statuses(envoy), statuses(gateway)]))
        }
    }

    impl Stage for Played {
        fn observe(&self, side: Side, _: &Scenario) -> anyhow::Result<Value> {
            let mut lists = self.0.lock().unwrap();
            let list = &mut lists[usize::from(side == Side::Gateway)];
            Ok(match list.len() {
                1 => list[0].clone(),
                _ => list.pop_front().unwrap_or_default(),
            })
        }
    }

    fn verdict(source: Value, envoy: &[&str], gateway: &[&str]) -> anyhow::Result<Verdict> {
        judge(&Played::new(envoy, gateway), &build("g", source)?)
    }

    #[test]
    fn verdicts() -> anyhow::Result<()> {
        let plain = || json!({"name": "s"});
        assert_eq!(verdict(plain(), &["a"], &["a"])?, Verdict::Equal);
        assert_eq!(verdict(plain(), &["a", "b"], &["b"])?, Verdict::Unstable);
        assert_eq!(verdict(plain(), &["a"], &["b", "a"])?, Verdict::NotAgain);
        let different = verdict(plain(), &["a", "a", "b"], &["b"])?;
        assert!(matches!(different, Verdict::Different(found) if found.len() == 1));
        Ok(())
    }

    #[test]
    fn where_inputs_race_one_of_envoys_outcomes_is_enough() -> anyhow::Result<()> {
        let racing =
            || json!({"name": "s", "processor": {"request_headers": [["continue", "close"]]}});
        let late = verdict(racing(), &["a", "a", "a", "b"], &["b"])?;
        assert_eq!(late, Verdict::OneOfEnvoys(4));
        let never = verdict(racing(), &["a"], &["b"])?;
        assert!(matches!(never, Verdict::Different(_)));
        Ok(())
    }

    #[test]
    fn a_body_that_is_asked_for_races_with_an_answer_of_the_route() -> anyhow::Result<()> {
        let of = |headers: Value, route: Value| {
            let client = json!({"method": "POST", "body": "one", "headers": headers});
            build("g", json!({"name": "s", "client": client, "route": route}))
        };
        let gone = || json!({"direct_response": {"status": 410}, "route": null});
        let expects = || json!(["expect: 100-continue"]);
        assert!(at_the_same_moment(&of(expects(), gone())?));
        assert!(!at_the_same_moment(&of(json!([]), gone())?));
        assert!(!at_the_same_moment(&of(expects(), json!({}))?));
        Ok(())
    }

    #[test]
    fn what_is_known_is_not_found_again() -> anyhow::Result<()> {
        let interim = |proxied: bool| {
            let hcm = json!({"proxy_100_continue": proxied});
            let upstream = json!({"informational": [{"status": 103}]});
            build("g", json!({"name": "s", "hcm": hcm, "upstream": upstream}))
        };
        let stage = Played::new(&[], &[]);
        let envoy = json!({"client": [{"head": "a"}]});
        let gateway = json!({"client": [{"head": "a", "informational": [{}]}]});
        let beside = |scenario: &Scenario| match Beside::of(&stage, scenario, &envoy, &gateway) {
            Beside::Known(names) => names.into_iter().collect(),
            _ => Vec::new(),
        };
        assert_eq!(beside(&interim(true)?), ["interim-responses"]);
        assert!(beside(&interim(false)?).is_empty());
        Ok(())
    }
}
