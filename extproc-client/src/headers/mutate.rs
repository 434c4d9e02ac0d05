//! Applies a `HeaderMutation` to a header block: removes first, then sets, each under the rules.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Block, Operation, Verdict, block::Unusable};
use crate::{
    config::{Effort, MutationRules},
    types::{
        header_change::{HeaderChange, Refused},
        limits::HeaderLimits,
        phase::Effect,
    },
    wire::{HeaderMutation, HeaderOption},
};

/// A mutation with everything that decides on it.
#[derive(Clone, Copy)]
pub(crate) struct Mutation<'a> {
    pub(crate) message: &'a HeaderMutation,
    pub(crate) rules: &'a MutationRules,
    /// Bounds on the operations and on the result; for local replies none but what a header map can hold.
    pub(crate) limits: Option<HeaderLimits>,
    /// CONTINUE_AND_REPLACE: `:method` may be set whatever the rules say.
    pub(crate) replacing: bool,
    /// The body may change its length: `content-length` is not set.
    pub(crate) drop_content_length: bool,
    /// Fields of a connection are not set.
    pub(crate) guards_framing: bool,
    /// Told of each change, if somebody wants to know.
    pub(crate) tell: Option<&'a dyn Fn(&HeaderChange<'_>)>,
}

/// Result of a mutation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mutated {
    /// Something changed.
    pub(crate) applied: bool,
    /// Changes refused: each counts in `rejected_header_mutations`.
    pub(crate) rejected: u32,
    /// The mutation as a whole was refused; changes made until then stay.
    pub(crate) error: Option<Rejection>,
}

/// Reason why a mutation was refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Response code details.
    pub(crate) detail: &'static str,
    pub(crate) effect: Effect,
}

impl Mutated {
    /// For the observer.
    pub(crate) fn effect(&self) -> Effect {
        match (self.error, self.applied, self.rejected) {
            (Some(rejection), ..) => rejection.effect,
            (None, true, _) => Effect::Applied,
            (None, false, 0) => Effect::None,
            (None, false, _) => Effect::Refused,
        }
    }

    fn reject(mut self, detail: &'static str, effect: Effect) -> Self {
        self.rejected += 1;
        self.error = Some(Rejection { detail, effect });
        self
    }
}

impl Mutation<'_> {
    /// Changes `block`.
    pub(crate) fn apply(&self, block: &mut Block<'_>) -> Mutated {
        let mut mutated = Mutated::default();
        let HeaderMutation {
            set_headers,
            remove_headers,
        } = self.message;
        if set_headers.is_empty() && remove_headers.is_empty() {
            return mutated;
        }
        if let Some(limits) = self.limits
            && (remove_headers.len() > limits.count || set_headers.len() > limits.count)
        {
            return mutated.reject(
                "header_mutation_operation_count_exceeds_limit",
                Effect::TooLarge,
            );
        }
        let mut appended = Vec::new();
        let changed = self.change(block, &mut mutated, &mut appended);
        join_lines(block, appended);
        if let Err(rejection) = changed {
            return mutated.reject(rejection.detail, rejection.effect);
        }
        if let Some(limits) = self.limits {
            let (count, bytes) = block.size();
            if count > limits.count || bytes > limits.bytes {
                return mutated.reject("header_mutation_result_exceeds_limit", Effect::TooLarge);
            }
        }
        mutated
    }

    /// Makes the changes up to one that is refused. What is appended to a field of one line goes into `appended`.
    fn change(
        &self,
        block: &mut Block<'_>,
        mutated: &mut Mutated,
        appended: &mut Vec<HeaderName>,
    ) -> Result<(), Rejection> {
        let mut effort = Effort::default();
        for name in &self.message.remove_headers {
            self.remove(block, name, mutated, &mut effort)?;
        }
        for option in &self.message.set_headers {
            self.set(block, option, mutated, appended, &mut effort)?;
        }
        Ok(())
    }

    fn remove(
        &self,
        block: &mut Block<'_>,
        name: &str,
        mutated: &mut Mutated,
        effort: &mut Effort,
    ) -> Result<(), Rejection> {
        let lower = name.to_ascii_lowercase();
        let parsed = HeaderName::from_bytes(lower.trim_start_matches(':').as_bytes()).ok();
        // The rules judge an empty name as well, and there is nothing of it to remove.
        if parsed.is_none() && !name.is_empty() {
            self.tell(Operation::Remove, &lower, b"", Some(Refused::Invalid));
            return Err(Rejection {
                detail: "header_mutation_remove_contains_invalid_character",
                effect: Effect::Invalid,
            });
        }
        let verdict = self.rules.check(Operation::Remove, &lower, b"", effort);
        self.tell_verdict(verdict, Operation::Remove, &lower, b"", effort);
        match verdict {
            Verdict::Allow => {
                mutated.applied |=
                    parsed.is_some_and(|name| block.map_mut().remove(&name).is_some());
            }
            Verdict::Ignore => mutated.rejected += 1,
            Verdict::Fail => {
                return Err(Rejection {
                    detail: "header_mutation_remove_headers_failed",
                    effect: Effect::Refused,
                });
            }
        }
        Ok(())
    }

    fn set(
        &self,
        block: &mut Block<'_>,
        option: &HeaderOption,
        mutated: &mut Mutated,
        appended: &mut Vec<HeaderName>,
        effort: &mut Effort,
    ) -> Result<(), Rejection> {
        const INVALID: Rejection = Rejection {
            detail: "header_mutation_set_contains_invalid_character",
            effect: Effect::Invalid,
        };
        let Some(entry) = &option.header else {
            return Ok(());
        };
        let lower = entry.key.to_ascii_lowercase();
        let refuse = |reason| self.tell(Operation::Set, &lower, &entry.raw_value, Some(reason));
        let invalid = || {
            refuse(Refused::Invalid);
            INVALID
        };
        let value =
            HeaderValue::from_maybe_shared(entry.raw_value.clone()).map_err(|_| invalid())?;
        if lower.is_empty() {
            // Envoy would write a line without a name; no peer can read that.
            refuse(Refused::Invalid);
            mutated.rejected += 1;
            return Ok(());
        }
        let pseudo = lower.starts_with(':');
        let bare = if pseudo { &lower[1..] } else { lower.as_str() };
        let name = HeaderName::from_bytes(bare.as_bytes()).map_err(|_| invalid())?;
        if self.drop_content_length && lower == "content-length" {
            refuse(Refused::ContentLength);
            return Ok(());
        }
        if self.guards_framing && is_of_one_hop(&lower, value.as_bytes()) {
            refuse(Refused::Framing);
            mutated.rejected += 1;
            return Ok(());
        }
        let append = option.append.unwrap_or(false);
        let authority = lower == "host" && block.host_is_authority();
        let exists = match (pseudo, authority) {
            (true, _) => block.has_pseudo(&lower),
            (_, true) => block.has_pseudo(":authority"),
            _ => block.map().contains_key(&name),
        };
        let operation = match append && exists {
            true => Operation::Append,
            false => Operation::Set,
        };
        let verdict = match self.replacing && lower == ":method" {
            true => Verdict::Allow,
            false => {
                let value = value.as_bytes();
                self.rules.check(operation, &lower, value, effort)
            }
        };
        if verdict != Verdict::Allow {
            self.tell_verdict(verdict, operation, &lower, &entry.raw_value, effort);
        }
        match verdict {
            Verdict::Ignore => mutated.rejected += 1,
            Verdict::Fail => {
                return Err(Rejection {
                    detail: "header_mutation_set_headers_failed",
                    effect: Effect::Refused,
                });
            }
            Verdict::Allow if pseudo || authority => {
                let target = if authority {
                    ":authority"
                } else {
                    lower.as_str()
                };
                let joined = match (block, operation) {
                    (Block::Request(parts), Operation::Append) => {
                        let present = crate::wire::fields::authority(parts).unwrap_or_default();
                        let joined = join(present.to_vec(), value.as_bytes());
                        Block::Request(parts).set_pseudo(target, &joined)
                    }
                    (block, _) => block.set_pseudo(target, value.as_bytes()),
                };
                match joined {
                    Ok(()) => {
                        self.tell(operation, &lower, &entry.raw_value, None);
                        mutated.applied = true;
                    }
                    // Whoever asked for another target may have refused this one.
                    Err(Unusable) if matches!(target, ":path" | ":authority" | ":method") => {
                        self.tell(operation, &lower, &entry.raw_value, Some(Refused::Value));
                        return Err(INVALID);
                    }
                    Err(Unusable) => {
                        self.tell(operation, &lower, &entry.raw_value, Some(Refused::Value));
                        mutated.rejected += 1;
                    }
                }
            }
            Verdict::Allow => {
                if operation == Operation::Append && block.is_inline(&name) {
                    appended.push(name.clone());
                }
                set_field(block.map_mut(), name, value, operation).inspect_err(|_| {
                    self.tell(operation, &lower, &entry.raw_value, Some(Refused::TooLarge));
                })?;
                self.tell(operation, &lower, &entry.raw_value, None);
                mutated.applied = true;
            }
        }
        Ok(())
    }

    fn tell(&self, operation: Operation, name: &str, value: &[u8], refused: Option<Refused>) {
        if let Some(tell) = self.tell {
            tell(&HeaderChange {
                operation,
                name,
                value,
                refused,
            });
        }
    }

    /// Tells what came of a change; the rules are asked for their reason only if somebody wants to know.
    fn tell_verdict(
        &self,
        verdict: Verdict,
        operation: Operation,
        name: &str,
        value: &[u8],
        effort: &mut Effort,
    ) {
        if self.tell.is_some() {
            let refused = match verdict {
                Verdict::Allow => None,
                Verdict::Ignore | Verdict::Fail => {
                    self.rules.judge(operation, name, value, effort).err()
                }
            };
            self.tell(operation, name, value, refused);
        }
    }
}

fn set_field(
    map: &mut HeaderMap,
    name: HeaderName,
    value: HeaderValue,
    operation: Operation,
) -> Result<(), Rejection> {
    /// A map holds 24,576 names, and panics at the next one. Whoever has the message next adds some, too.
    const MOST: usize = 16 * 1024;
    let full = map.keys_len() >= MOST && !map.contains_key(&name);
    let full = full
        || match operation {
            Operation::Append => map.try_append(name, value).is_err(),
            _ => map.try_insert(name, value).is_err(),
        };
    match full {
        true => Err(Rejection {
            detail: "header_mutation_result_exceeds_limit",
            effect: Effect::TooLarge,
        }),
        false => Ok(()),
    }
}

/// Returns whether a field speaks of the connection that it is sent on (RFC 9110, section 7.6.1), about which a processor knows
/// nothing. `te: trailers` speaks to the far end.
fn is_of_one_hop(name: &str, value: &[u8]) -> bool {
    match name {
        "connection" | "http2-settings" | "keep-alive" | "proxy-connection"
        | "transfer-encoding" | "upgrade" => true,
        "te" => !value.eq_ignore_ascii_case(b"trailers"),
        _ => false,
    }
}

/// Removes a `content-length` that announces what does not follow, from a head without a body.
pub(crate) fn remove_unkept_length(headers: &mut HeaderMap) {
    if headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .any(|length| length != "0")
    {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Makes one line of each of these fields, once for all that was appended to it.
fn join_lines(block: &mut Block<'_>, names: Vec<HeaderName>) {
    for name in names {
        let lines = block.map().get_all(&name);
        if lines.iter().nth(1).is_none() {
            continue;
        }
        let joined = lines
            .iter()
            .fold(Vec::new(), |joined, value| join(joined, value.as_bytes()));
        // Valid values and commas are a valid value; the name is there already.
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            block.map_mut().insert(name, joined);
        }
    }
}

/// Appends to a value with a comma, where there is something on both sides of it.
fn join(mut value: Vec<u8>, more: &[u8]) -> Vec<u8> {
    if !value.is_empty() && !more.is_empty() {
        value.push(b',');
    }
    value.extend_from_slice(more);
    value
}

/// Removes `content-length`, where a body may change its length.
pub(crate) fn remove_content_length(block: &mut Block<'_>) {
    block.map_mut().remove(header::CONTENT_LENGTH);
}
