//! The filters `envoy.filters.http.compressor` and `envoy.filters.http.decompressor`: a message in another content coding.

mod accept;
mod bodies;
mod codecs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use extproc_client::{
    config::Effort,
    host::{Held, RefusedRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Body as _;

use self::bodies::{Compressed, Decompressed};
use super::{passing::Changes, switched::said};
use crate::{
    config::snapshot::{
        Compressible, Compressor, Decompressible, Decompressor, Etag, FilterKind, OnRoute,
    },
    exchange::{Exchange, host::is_answered},
    http::{
        body::{Body, BoxError},
        length,
    },
};

/// The compressor; `beside` are all of the chain, itself among them.
pub(super) struct CompressorFilter {
    /// Its name, if routes speak of it.
    pub(super) name: Option<String>,
    pub(super) config: Arc<Compressor>,
    pub(super) beside: Arc<[Arc<Compressor>]>,
}

impl Changes for CompressorFilter {
    /// The codings that the client takes, and the configuration that holds on the route.
    type Seen = (String, Arc<Compressor>);

    fn request(
        &self,
        parts: &mut Parts,
        body: &mut Body,
        exchange: &Arc<Exchange>,
    ) -> Option<Self::Seen> {
        if exchange.upgrade {
            return None;
        }
        let config = match said(parts, self.name.as_deref()) {
            Some(OnRoute::As(FilterKind::Compressor(own))) => own,
            _ => self.config.clone(),
        };
        let accepted = config.is_on.then(|| {
            let accepted = list(&parts.headers, &header::ACCEPT_ENCODING);
            accepted.unwrap_or_default()
        });
        if is_answered(parts) {
            return accepted.map(|accepted| (accepted, config));
        }
        if accepted.is_some() && config.remove_accept_encoding {
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        if let Some(settings) = &config.requests
            && !body.is_end_stream()
            && is_large(settings, &parts.headers)
            && is_of_type(settings, &parts.headers)
            && !parts.headers.contains_key(header::CONTENT_ENCODING)
        {
            compress(&config, &mut parts.headers, body, exchange);
        }
        exchange.note_head(parts);
        accepted.map(|accepted| (accepted, config))
    }

    fn response(
        &self,
        (accepted, config): Self::Seen,
        response: &mut Response<Body>,
        exchange: &Arc<Exchange>,
    ) {
        if !may_be_compressed(&config, &config.responses, response) {
            return;
        }
        if !response.body().is_end_stream()
            && accept::allows(
                &accepted,
                &config,
                &self.config,
                &self.beside,
                response.headers(),
            )
        {
            let mut body = std::mem::take(response.body_mut());
            change_etag(config.etag, response.headers_mut());
            compress(&config, response.headers_mut(), &mut body, exchange);
            *response.body_mut() = body;
        }
        // Also where this client takes no coding, another one may.
        add_vary(response.headers_mut());
    }
}

/// The decompressor.
pub(super) struct DecompressorFilter {
    config: Arc<Decompressor>,
    /// Names of the trailers that tell the lengths.
    trailers: Option<(HeaderName, HeaderName)>,
}

impl DecompressorFilter {
    pub(super) fn new(config: &Arc<Decompressor>) -> Self {
        let name = |what: &str| {
            let name = format!("x-envoy-decompressor-{}-{what}-bytes", config.library);
            HeaderName::from_bytes(name.as_bytes()).ok()
        };
        Self {
            config: config.clone(),
            trailers: name("compressed").zip(name("uncompressed")),
        }
    }

    /// Tells whether the outermost coding of a message is the one that is undone.
    fn applies(&self, settings: Decompressible, headers: &HeaderMap) -> bool {
        let coding = list(headers, &header::CONTENT_ENCODING).unwrap_or_default();
        let first = coding.split(',').next().unwrap_or_default().trim();
        let may = settings.ignore_no_transform
            || !has_token(headers, &header::CACHE_CONTROL, "no-transform");
        may && first.eq_ignore_ascii_case(self.config.coding.name())
    }

    /// A body for which that fails has the error that `fault` makes.
    fn decompress(
        &self,
        headers: &mut HeaderMap,
        body: &mut Body,
        exchange: &Arc<Exchange>,
        fault: fn(BoxError) -> BoxError,
    ) {
        headers.remove(header::CONTENT_LENGTH);
        let codings = list(headers, &header::CONTENT_ENCODING).unwrap_or_default();
        let rest = codings.split_once(',').map(|(_, rest)| rest.trim());
        match rest.and_then(|rest| HeaderValue::from_str(rest).ok()) {
            Some(rest) => headers.insert(header::CONTENT_ENCODING, rest),
            None => headers.remove(header::CONTENT_ENCODING),
        };
        let Decompressor {
            coding, max_ratio, ..
        } = *self.config;
        *body = Body::new(Decompressed::new(
            std::mem::take(body),
            coding,
            max_ratio,
            self.trailers.clone(),
            fault,
            Held::new(Some(exchange.clone())),
        ));
    }
}

impl Changes for DecompressorFilter {
    type Seen = Decompressible;

    fn request(
        &self,
        parts: &mut Parts,
        body: &mut Body,
        exchange: &Arc<Exchange>,
    ) -> Option<Decompressible> {
        if exchange.upgrade {
            return None;
        }
        let config = &self.config;
        if !is_answered(parts) {
            if config.responses.is_some() && config.advertise {
                advertise(&mut parts.headers, config.coding.name());
            }
            if let Some(settings) = config.requests
                && !body.is_end_stream()
                && self.applies(settings, &parts.headers)
            {
                let refused = |error| {
                    let status = StatusCode::BAD_REQUEST;
                    RefusedRequest::new(status, "decompression_failed", error).into()
                };
                self.decompress(&mut parts.headers, body, exchange, refused);
            }
            exchange.note_head(parts);
        }
        config.responses
    }

    fn response(
        &self,
        settings: Decompressible,
        response: &mut Response<Body>,
        exchange: &Arc<Exchange>,
    ) {
        if !response.body().is_end_stream()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && self.applies(settings, response.headers())
        {
            let mut body = std::mem::take(response.body_mut());
            self.decompress(response.headers_mut(), &mut body, exchange, |error| error);
            *response.body_mut() = body;
        }
    }
}

/// Values of a list in one, as Envoy has them; `None` without the field.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut lines = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(lines.next()?.as_bytes()).into_owned();
    Some(lines.fold(first, |list, line| {
        format!("{list},{}", String::from_utf8_lossy(line.as_bytes()))
    }))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let tokens = list(headers, name).unwrap_or_default();
    let mut tokens = tokens.split(',').map(str::trim);
    tokens.any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Tells whether a message is large enough, which one is that does not tell its length.
fn is_large(settings: &Compressible, headers: &HeaderMap) -> bool {
    match headers.contains_key(header::CONTENT_LENGTH) {
        true => length::announced(headers).is_some_and(|length| length >= settings.min_length),
        false => true,
    }
}

fn is_of_type(settings: &Compressible, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    let Some(essence) = value
        .to_str()
        .ok()
        .and_then(|value| value.split(';').next())
    else {
        return false;
    };
    let mut effort = Effort::default();
    let mut all = settings.content_types.iter();
    all.any(|matcher| matcher.try_matches(essence.trim(), &mut effort) == Some(true))
}

/// Tells whether a response is one that is compressed for clients that take the coding.
fn may_be_compressed(
    config: &Compressor,
    settings: &Compressible,
    response: &Response<Body>,
) -> bool {
    let headers = response.headers();
    is_large(settings, headers)
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && !config.uncompressible.contains(&response.status())
        && is_of_type(settings, headers)
        && !has_token(headers, &header::CACHE_CONTROL, "no-transform")
        && (config.etag != Etag::Prevents || !headers.contains_key(header::ETAG))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

fn compress(
    config: &Compressor,
    headers: &mut HeaderMap,
    body: &mut Body,
    exchange: &Arc<Exchange>,
) {
    headers.remove(header::CONTENT_LENGTH);
    let name = HeaderValue::from_static(config.coding.name());
    headers.insert(header::CONTENT_ENCODING, name);
    let held = Held::new(Some(exchange.clone()));
    *body = Body::new(Compressed::new(std::mem::take(body), config.coding, held));
}

fn change_etag(fate: Etag, headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG) else {
        return;
    };
    if matches!(tag.as_bytes(), [b'W' | b'w', b'/', ..]) {
        return;
    }
    let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
    match (fate, weak) {
        (Etag::Weakened, Ok(weak)) => headers.insert(header::ETAG, weak),
        _ => headers.remove(header::ETAG),
    };
}

fn add_vary(headers: &mut HeaderMap) {
    if has_token(headers, &header::VARY, "accept-encoding") {
        return;
    }
    let line = match list(headers, &header::VARY) {
        Some(line) => format!("{line}, Accept-Encoding"),
        None => "Accept-Encoding".to_owned(),
    };
    if let Ok(line) = HeaderValue::try_from(line) {
        headers.insert(header::VARY, line);
    }
}

/// Puts a coding into `accept-encoding`, once, at its end and without a weight.
fn advertise(headers: &mut HeaderMap, coding: &'static str) {
    let before = list(headers, &header::ACCEPT_ENCODING).unwrap_or_default();
    let others = before.split(',').map(str::trim).filter(|entry| {
        let name = entry.split(';').next().unwrap_or_default().trim();
        !name.is_empty() && name != coding
    });
    let all: Vec<&str> = others.chain([coding]).collect();
    if let Ok(value) = HeaderValue::try_from(all.join(",")) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
}
