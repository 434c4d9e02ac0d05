//! An observer of one's own, the same in each home of the layer.

use extproc_client::{
    http::{HeaderMap, HeaderValue},
    observer::{Event, Observer, Watched},
};

/// Prints a line on standard error for each event that a person would ask about: messages, replies, changes, failures, ends.
///
/// Everything that an observer is given is borrowed, so that it pays for what it keeps, and a layer without one pays nothing.
#[derive(Clone, Copy, Debug)]
pub struct Told;

impl Observer for Told {
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        let id = exchange.id;
        match event {
            Event::MessageSent { phase, message, .. } => {
                eprintln!("{id} sent {phase:?}: {}", message.to_json(0));
            }
            Event::ReplyArrived { reply, .. } => eprintln!("{id} reply: {}", reply.to_json(0)),
            Event::MessageReceived {
                latency: Some(latency),
                effect,
                ..
            } => eprintln!("{id} {effect:?} after {latency:?}"),
            Event::Header { change, .. } => match change.refused {
                Some(reason) => eprintln!("{id} {} refused: {reason}", change.name),
                None => eprintln!("{id} {:?} {}", change.operation, change.name),
            },
            Event::Failed { row, verdict, .. } => eprintln!("{id} failed: {row}; {verdict:?}"),
            Event::Ended { summary, .. } => eprintln!("{id} over: {summary}"),
            _ => {}
        }
    }

    /// The processor can find the exchange in its own log.
    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        metadata.insert("x-exchange", HeaderValue::from(exchange.id));
    }
}
