//! Interim responses (1xx) of an upstream.

use std::sync::atomic::Ordering;

use http::{HeaderMap, StatusCode};

use super::Exchange;
use crate::config::snapshot::HeaderChange;

impl Exchange {
    /// Some filter shows the response to a processor, which may refuse it.
    pub(super) fn note_judged(&self) {
        self.judged.store(true, Ordering::Relaxed);
    }

    /// Passes an interim head on to the client. As in Envoy no filter sees it, and of the route's changes only removals are made:
    /// so where a processor is yet to say what it thinks of the response, no fields pass.
    pub(crate) fn interim(&self, status: StatusCode, mut headers: HeaderMap) {
        // 104 is Upload Resumption Supported. Envoy knows no others.
        if !matches!(status.as_u16(), 100 | 102 | 103 | 104) {
            return;
        }
        if self.judged.load(Ordering::Relaxed) {
            // Without its fields, only this one says anything.
            if status != StatusCode::CONTINUE {
                return;
            }
            headers.clear();
        } else if let Some(route) = self.route() {
            for change in route.response_headers().flatten() {
                if let HeaderChange::Remove(name) = change {
                    headers.remove(name);
                }
            }
        }
        self.outgoing.interim(status, headers);
    }
}
