//! Frames of a client that cost work and carry nothing.

use std::io;

use super::{
    HEAD,
    kind::{DATA, HEADERS, PRIORITY_FRAME, WINDOW_UPDATE},
};

/// WINDOW_UPDATE frames that every connection may have.
const FIRST_UPDATES: u64 = 5;

/// Limits for the frames of a client, as in `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Copy, Debug)]
pub struct FloodLimits {
    /// PRIORITY frames for each stream that the client has opened, and one stream more
    /// (`max_inbound_priority_frames_per_stream`).
    pub priority: u32,
    /// WINDOW_UPDATE frames of a stream and of the connection for each DATA frame that was written
    /// (`max_inbound_window_update_frames_per_data_frame_sent`).
    pub window_updates: u32,
}

/// Envoy's defaults.
impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            priority: 100,
            window_updates: 10,
        }
    }
}

/// Counters of a client's connection.
#[derive(Debug, Default)]
pub(super) struct Floods {
    limits: FloodLimits,
    priority: u64,
    updates: u64,
    /// Streams that were opened, and the last of them.
    streams: u64,
    last: u32,
    sent: Sent,
}

/// Frames that are written.
#[derive(Debug, Default)]
struct Sent {
    /// The beginning of a frame: its length and its type.
    head: [u8; 4],
    /// Bytes of the head that are written.
    at: usize,
    /// Bytes of the frame behind these four that are still to be written.
    left: usize,
    data: u64,
}

impl Floods {
    pub(super) fn of(limits: FloodLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Counts a frame that is read.
    pub(super) fn read(&mut self, kind: u8, stream: u32) {
        match kind {
            HEADERS if stream > self.last => {
                self.last = stream;
                self.streams += 1;
            }
            PRIORITY_FRAME => self.priority += 1,
            WINDOW_UPDATE => self.updates += 1,
            _ => {}
        }
    }

    /// Follows what is written.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        self.sent.follow(bytes);
    }

    /// Fails once there were too many frames.
    pub(super) fn check(&self) -> io::Result<()> {
        let allowed = u64::from(self.limits.priority).saturating_mul(self.streams + 1);
        if self.priority > allowed {
            return Err(io::Error::other("too many PRIORITY frames"));
        }
        let for_data = u64::from(self.limits.window_updates).saturating_mul(self.sent.data);
        let allowed = self.streams.saturating_add(for_data).saturating_mul(2);
        if self.updates > allowed.saturating_add(FIRST_UPDATES) {
            return Err(io::Error::other("too many WINDOW_UPDATE frames"));
        }
        Ok(())
    }
}

impl Sent {
    fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            if let Some(room) = self.head.get_mut(self.at) {
                *room = *first;
            }
            self.at += 1;
            bytes = rest;
            if self.at == self.head.len() {
                self.at = 0;
                let [a, b, c, kind] = self.head;
                let payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.left = HEAD - self.head.len() + payload;
                self.data += u64::from(kind == DATA);
            }
        }
    }
}
