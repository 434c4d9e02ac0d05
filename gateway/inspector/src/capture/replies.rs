//! Replies of processors and what came of them.

use std::time::Duration;

use extproc_client::observer::{Effect, HeaderChange, Operation, Phase};
use serde_json::Value;

use super::{micros, parts::PIECES, scribe::Scribe, short};
use crate::record::{ALLOCATION, Kind, State};

/// Names of refused headers that are kept.
const REFUSED: usize = 32;

impl Scribe<'_> {
    pub(super) fn accepted(
        &mut self,
        phase: Option<Phase>,
        latency: Option<Duration>,
        effect: Effect,
    ) {
        self.processor.received += 1;
        let mut entries = self.processor.entries.iter_mut().rev();
        let reply = entries.find(|entry| entry.kind == Kind::Reply);
        let state = match (phase, effect) {
            (None, _) => State::Answered,
            (_, Effect::Applied) => State::Changed,
            (_, Effect::Invalid | Effect::TooLarge | Effect::Refused) => State::Refused,
            // As in Envoy, a body that is replaced as a whole has no effect of its own.
            (Some(_), _)
                if self
                    .processor
                    .reply
                    .is_some_and(|reply| reply.replaces_body) =>
            {
                State::Changed
            }
            _ => State::Unchanged,
        };
        let latency = latency.map(micros);
        if let Some(reply) = reply {
            reply.phase = phase.map(Phase::name);
            reply.latency_us = latency;
            reply.text.push_str(match state {
                State::Changed => ": changed something",
                State::Refused => ": asked for what is refused",
                State::Answered => "",
                _ => ": nothing changed",
            });
        }
        self.processor.wait_us += latency.unwrap_or_default();
        let Some(phase) = phase else {
            self.processor.flag("answered");
            return self.settle(state);
        };
        let unanswered = &mut self.processor.unanswered[phase.index()];
        *unanswered = unanswered.saturating_sub(1);
        let shown = &mut self.processor.phases[phase.index()];
        if !matches!(*shown, State::Changed | State::Refused) {
            *shown = state;
        }
        if let Some(latency) = latency
            && self.processor.latencies_us.len() < PIECES
        {
            self.processor.latencies_us.push((phase.index(), latency));
        }
    }

    pub(super) fn header(&mut self, phase: Option<Phase>, change: &HeaderChange<'_>) {
        let value = short(&self.redactor.value(change.name, change.value));
        let header = short(&self.redactor.words(change.name));
        let asked = match change.operation {
            Operation::Set => format!("set {header}: {value}"),
            Operation::Append => format!("append to {header}: {value}"),
            Operation::Remove => format!("remove {header}"),
        };
        match change.refused {
            Some(reason) => {
                let known = &mut self.processor.refused;
                if known.len() < REFUSED && !known.contains(&header) {
                    self.size += header.len() + size_of::<String>() + ALLOCATION;
                    known.push(header);
                }
                self.refused(phase, &format!("{asked}: refused, {reason}"));
            }
            None => self.entry(Kind::Header, phase, asked),
        }
    }
}

/// Tells whether a reply that answers this has a new body.
pub(super) fn replaces_body(reply: &Value, answers: &str) -> bool {
    let mutation = &reply[answers]["response"]["body_mutation"];
    mutation.get("body").is_some() || mutation.get("clear_body").is_some()
}
