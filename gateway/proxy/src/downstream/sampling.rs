//! Requests that are traced. As in Envoy, `x-request-id` says so from one proxy to the next.

use extproc_client::headers::CLIENT_TRACE_ID;
use http::{HeaderMap, HeaderValue};

use crate::{
    config::snapshot::{Fraction, TraceSampling},
    http::headers::REQUEST_ID,
    route::{Selected, is_drawn},
    telemetry::spans::Recorder,
    trace::Trace,
};

/// The digit of a UUID that tells its version, and here why the request is traced.
const DIGIT: usize = 14;

/// Digits of a UUID by which requests are drawn, the same for all proxies on the way.
const DRAWN: std::ops::Range<usize> = 0..8;

const UNTRACED: u8 = b'4';
const SAMPLED: u8 = b'9';
const FORCED: u8 = b'a';
const CLIENT: u8 = b'b';

/// The trace of a request that begins.
pub(super) fn start(
    recorder: &Recorder,
    headers: &mut HeaderMap,
    route: Option<&Selected>,
) -> Option<Trace> {
    let by_number = recorder.config.by_request_id;
    let sampled = !by_number || decide(headers, recorder.sampling(route));
    recorder.start(headers, sampled)
}

/// Takes the reason out of a number that comes from outside: a client would be traced as it likes.
pub(super) fn clear(headers: &mut HeaderMap) {
    if let Some(id) = number(headers) {
        write(headers, id, UNTRACED);
    }
}

/// Tells whether a request is to be traced, and writes the reason into its number. One without a number of the form is not.
fn decide(headers: &mut HeaderMap, sampling: TraceSampling) -> bool {
    let Some(id) = number(headers) else {
        return false;
    };
    let drawn = id
        .get(DRAWN)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let Some(drawn) = drawn.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
        return false;
    };
    let before = id.get(DIGIT).copied().unwrap_or(UNTRACED);
    let reason = match before {
        SAMPLED | FORCED | CLIENT => Some(before),
        _ if headers.contains_key(CLIENT_TRACE_ID) && is_drawn(sampling.client) => Some(CLIENT),
        _ => is_within(drawn, sampling.random).then_some(SAMPLED),
    };
    let reason = reason.filter(|_| is_within(drawn, sampling.overall));
    write(headers, id, reason.unwrap_or(UNTRACED));
    reason.is_some()
}

/// Writes a reason into the request's number.
fn write(headers: &mut HeaderMap, mut id: Vec<u8>, digit: u8) {
    if let Some(place) = id.get_mut(DIGIT)
        && *place != digit
    {
        *place = digit;
        if let Ok(value) = HeaderValue::from_bytes(&id) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

/// The request's number, if it is a UUID by its form.
fn number(headers: &HeaderMap) -> Option<Vec<u8>> {
    /// Digits and dashes.
    const LENGTH: usize = 36;
    let id = headers.get(REQUEST_ID)?.as_bytes();
    (id.len() == LENGTH).then(|| id.to_vec())
}

fn is_within(drawn: u32, share: Fraction) -> bool {
    drawn % share.denominator.max(1) < share.numerator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(id: &str, client: bool, sampling: TraceSampling) -> (bool, String) {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, id.parse().unwrap());
        if client {
            headers.insert(CLIENT_TRACE_ID, "1".parse().unwrap());
        }
        let sampled = decide(&mut headers, sampling);
        let id = headers[REQUEST_ID].to_str().unwrap().to_owned();
        (sampled, id)
    }

    #[test]
    fn the_number_of_a_request_says_why_it_is_traced() {
        let all = TraceSampling::default();
        let none = TraceSampling {
            random: Fraction::NONE,
            ..all
        };
        let never = TraceSampling {
            overall: Fraction::NONE,
            ..all
        };
        let half = TraceSampling {
            random: Fraction {
                numerator: 50,
                denominator: 100,
            },
            ..all
        };
        // 0x31 is 49, 0x32 is 50.
        const LOW: &str = "00000031-0000-4000-8000-000000000000";
        const HIGH: &str = "00000032-0000-4000-8000-000000000000";
        for (id, client, sampling, sampled, digit) in [
            (LOW, false, all, true, '9'),
            (LOW, false, none, false, '4'),
            (LOW, true, none, true, 'b'),
            (LOW, true, never, false, '4'),
            (LOW, false, half, true, '9'),
            (HIGH, false, half, false, '4'),
            (
                "00000031-0000-a000-8000-000000000000",
                false,
                none,
                true,
                'a',
            ),
            (
                "00000031-0000-9000-8000-000000000000",
                false,
                never,
                false,
                '4',
            ),
        ] {
            let (decided, id) = decided(id, client, sampling);
            assert_eq!(decided, sampled, "{id}");
            assert_eq!(id.chars().nth(DIGIT), Some(digit));
        }
        for id in ["", "mine", "z0000031-0000-4000-8000-000000000000"] {
            assert_eq!(decided(id, true, all), (false, id.to_owned()));
        }
    }
}
