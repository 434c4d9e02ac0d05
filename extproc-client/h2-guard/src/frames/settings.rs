//! SETTINGS of the peer.

use crate::traffic::Traffic;

/// `SETTINGS_MAX_HEADER_LIST_SIZE` (RFC 9113 §6.5.2).
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

/// A SETTINGS frame that is under way (RFC 9113 §6.5.1).
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) reading: bool,
    /// Bytes that come before its payload.
    pub(super) head: usize,
    /// One setting, of which so many bytes are there.
    pub(super) entry: [u8; 6],
    pub(super) at: usize,
}

impl Settings {
    pub(super) fn read(&mut self, bytes: &[u8], traffic: &Traffic) {
        let head = self.head.min(bytes.len());
        self.head -= head;
        for byte in bytes.iter().skip(head) {
            if let Some(room) = self.entry.get_mut(self.at) {
                *room = *byte;
            }
            self.at += 1;
            if self.at == self.entry.len() {
                self.at = 0;
                let [a, b, value @ ..] = self.entry;
                if [a, b] == MAX_HEADER_LIST_SIZE {
                    traffic.announce_header_list(u32::from_be_bytes(value));
                }
            }
        }
    }
}
