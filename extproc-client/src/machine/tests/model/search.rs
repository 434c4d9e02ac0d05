//! The walk over everything that can happen: breadth first, each state once.

use std::{
    collections::HashSet,
    fmt::{self, Write},
    hash::Hasher,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{Class, event::Event, fault::Fault, spec::Broken, world::World};

/// The extent of a walk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) classes: usize,
    pub(super) states: usize,
    /// Events that were tried.
    pub(super) events: usize,
    /// Events of the longest sequence.
    pub(super) depth: usize,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.classes += other.classes;
        self.states += other.states;
        self.events += other.events;
        self.depth = self.depth.max(other.depth);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            classes,
            states,
            events,
            depth,
        } = self;
        write!(
            f,
            "{classes} classes, {states} states, {events} events, up to {depth} in a sequence"
        )
    }
}

/// The shortest way to a rule that is broken.
pub(super) struct Violation {
    pub(super) rule: Broken,
    pub(super) transcript: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.rule, self.transcript)
    }
}

/// A state, by the one before it.
struct Step {
    before: usize,
    event: Option<Event>,
}

/// Walks everything up to `depth` events. Gives the violations, one for each rule: as the walk is breadth first, the
/// first one is the shortest. Beyond a violation it does not go.
pub(super) fn walk(
    class: &Arc<Class>,
    fault: Option<Fault>,
    depth: usize,
) -> (Counts, Vec<Violation>) {
    let now = Instant::now();
    let start = World::new(class, fault, now);
    let mut seen = HashSet::from([start.fingerprint()]);
    let mut steps = vec![Step {
        before: 0,
        event: None,
    }];
    let mut level = vec![(0, start)];
    let mut violations: Vec<Violation> = Vec::new();
    let mut counts = Counts {
        classes: 1,
        states: 1,
        ..Counts::default()
    };
    while !level.is_empty() && counts.depth < depth {
        let mut next = Vec::new();
        for (at, world) in level {
            for event in world.events() {
                counts.events += 1;
                let mut after = world.clone();
                if let Err(rule) = try_event(&mut after, event) {
                    if violations.iter().all(|known| known.rule != rule) {
                        let mut events = path(&steps, at);
                        events.push(event);
                        let transcript = transcript(class, fault, now, &events);
                        violations.push(Violation { rule, transcript });
                    }
                } else if !after.is_done() && seen.insert(after.fingerprint()) {
                    counts.states += 1;
                    steps.push(Step {
                        before: at,
                        event: Some(event),
                    });
                    next.push((steps.len() - 1, after));
                }
            }
        }
        level = next;
        counts.depth += 1;
    }
    (counts, violations)
}

fn try_event(world: &mut World, event: Event) -> Result<(), Broken> {
    catch_unwind(AssertUnwindSafe(|| world.apply(event)))
        .unwrap_or_else(|_| Err("the machine panics".into()))
}

fn path(steps: &[Step], mut at: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = steps[at].event {
        events.push(event);
        at = steps[at].before;
    }
    events.reverse();
    events
}

/// The events again, with what came out after each.
fn transcript(class: &Arc<Class>, fault: Option<Fault>, now: Instant, events: &[Event]) -> String {
    let mut world = World::new(class, fault, now);
    world.lines = Some(vec![format!("class: {}", class.name)]);
    for event in events {
        if try_event(&mut world, *event).is_err() {
            break;
        }
    }
    world.lines.unwrap_or_default().join("\n")
}

/// 64 bits of what is written or hashed. Unlike the hashers of the standard library, it is quick without optimisation.
#[derive(Default)]
pub(super) struct Digest(u64);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((chunk, more)) = rest.split_first_chunk() {
            self.write_u64(u64::from_le_bytes(*chunk));
            rest = more;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
