//! The pages of the admin server, in Envoy's forms.

use std::{fmt::Write as _, net::IpAddr};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use regex::Regex;
use serde_json::{Value, json};

use super::{
    Admin,
    stats::{self, Form},
};
use crate::limits::overload::resident;

/// Paths, the methods that they take, and what they show.
const PAGES: &[(&str, Method, &str)] = &[
    (
        "/certs",
        Method::GET,
        "certificates that are shown and trusted, with the days that they are left",
    ),
    (
        "/clusters",
        Method::GET,
        "clusters with their endpoints; filter, format=text|json",
    ),
    (
        "/config_dump",
        Method::GET,
        "the configuration as it was written, secrets left out",
    ),
    ("/help", Method::GET, "this list"),
    (
        "/listeners",
        Method::GET,
        "listeners with their addresses; format=text|json",
    ),
    (
        "/logging",
        Method::POST,
        "log levels; level=LEVEL sets that of everything, TARGET=LEVEL or paths=TARGET:LEVEL,... of parts",
    ),
    ("/memory", Method::GET, "resident memory"),
    (
        "/ready",
        Method::GET,
        "200 while the gateway takes requests, 503 once it goes down",
    ),
    ("/server_info", Method::GET, "version, state and uptime"),
    (
        "/stats",
        Method::GET,
        "numbers; usedonly, filter, format=text|json|prometheus",
    ),
    (
        "/stats/prometheus",
        Method::GET,
        "numbers and histograms for Prometheus; usedonly, filter",
    ),
];

const TEXT: &str = "text/plain; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

type Answer = Response<Full<Bytes>>;

pub(super) fn answer<B>(admin: &Admin, request: &Request<B>) -> Answer {
    let mut response = page(admin, request);
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(body: impl Into<Bytes>) -> Answer {
    reply(StatusCode::OK, TEXT, body)
}

fn shown(value: &Value) -> Answer {
    reply(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn page<B>(admin: &Admin, request: &Request<B>) -> Answer {
    let whole = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    if let Some(served) = admin.served.load().as_ref()
        && !served.allows(whole)
    {
        let said = format!("request to path {whole} not allowed");
        return reply(StatusCode::FORBIDDEN, TEXT, said);
    }
    let path = request.uri().path();
    let given = match request.method() {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    let wanted = PAGES.iter().find(|(known, ..)| *known == path);
    let wanted = wanted.map_or(&Method::GET, |(_, method, _)| method);
    if given != wanted {
        let said = format!("Method {given} not allowed, {wanted} required.\n");
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, said);
    }
    if !is_known_host(admin, request) {
        return reply(
            StatusCode::MISDIRECTED_REQUEST,
            TEXT,
            "unknown host: ask by address or as localhost, or name it with --admin-host\n",
        );
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match path {
        "/" => reply(StatusCode::OK, HTML, index()),
        "/certs" => match admin.served.load().as_ref() {
            Some(served) => shown(&served.certificates()),
            None => shown(&json!({ "certificates": [] })),
        },
        "/clusters" => clusters(admin, &query),
        "/config_dump" => match admin.served.load().as_ref() {
            Some(served) => reply(StatusCode::OK, JSON, served.config_dump()),
            None => shown(&json!({ "configs": [] })),
        },
        "/help" => text(help("")),
        "/listeners" => match (admin.served.load().as_ref(), query.is_json()) {
            (Some(served), false) => text(served.listeners()),
            (Some(served), true) => shown(&served.listeners_json()),
            (None, _) => text(""),
        },
        "/logging" => match is_of_another_site(request) {
            true => reply(StatusCode::FORBIDDEN, TEXT, "not from another site\n"),
            false => logging(admin, &query),
        },
        "/memory" => shown(&memory()),
        // Load balancers send nothing more to one that goes down (as Envoy's).
        "/ready" if *admin.draining.borrow() => {
            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "DRAINING\n")
        }
        "/ready" => text("LIVE\n"),
        "/server_info" => shown(&server_info(admin)),
        "/stats" => numbers(admin, &query, query.format(), form(request)),
        "/stats/prometheus" => numbers(admin, &query, "prometheus", form(request)),
        _ => reply(StatusCode::NOT_FOUND, TEXT, help("invalid path. ")),
    }
}

/// Tells whether a request is for an address, which no page can make its own name lead to, or for a name of the admin server. One
/// without `host` comes from no browser, and `/ready` says nothing that a page must not know.
fn is_known_host<B>(admin: &Admin, request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let absolute = request.uri().authority().map(http::uri::Authority::as_str);
    let is_known = |host: &str| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let mut known = admin.hosts.iter().map(String::as_str).chain(["localhost"]);
        bare.unwrap_or(name).parse::<IpAddr>().is_ok()
            || known.any(|known| known.eq_ignore_ascii_case(name))
    };
    request.uri().path() == "/ready"
        || hosts.all(|host| host.to_str().is_ok_and(is_known)) && absolute.is_none_or(is_known)
}

/// Tells whether a browser sends the request for a page of another site. `Sec-Fetch-Site` is only sent to trustworthy URLs
/// (W3C Fetch Metadata §2), which no address of a network is over HTTP; `Origin` comes with every POST.
fn is_of_another_site<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let site = headers.get("sec-fetch-site");
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok();
        let authority = origin.and_then(|origin| origin.split_once("://"));
        authority.is_some_and(|(_, authority)| Some(authority) == host)
    };
    site.is_some_and(|site| site != "same-origin" && site != "none")
        || !headers.get_all(header::ORIGIN).iter().all(is_own)
}

fn help(before: &str) -> String {
    let mut text = format!("{before}admin commands are:\n");
    for (path, method, about) in PAGES {
        let post = if method == Method::POST {
            " (POST)"
        } else {
            ""
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {path}{post}: {about}");
    }
    text
}

fn index() -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Gateway admin</title></head><body>\n<h1>Gateway admin</h1>\n<table>\n",
    );
    for (path, method, about) in PAGES {
        // Writing to a string does not fail.
        let _ = match *method == Method::POST {
            true => writeln!(
                page,
                "<tr><td><form method=\"post\" action=\"{path}\"><button>{path}</button></form></td><td>{about}</td></tr>"
            ),
            false => writeln!(
                page,
                "<tr><td><a href=\"{path}\">{path}</a></td><td>{about}</td></tr>"
            ),
        };
    }
    page.push_str("</table>\n</body></html>\n");
    page
}

fn clusters(admin: &Admin, query: &Query) -> Answer {
    let served = admin.served.load();
    let Some(served) = served.as_ref() else {
        return text("");
    };
    match query.filter() {
        Err(refused) => *refused,
        Ok(filter) => {
            let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
            match query.is_json() {
                true => shown(&served.clusters_json(wanted)),
                false => text(served.clusters_text(wanted)),
            }
        }
    }
}

fn server_info(admin: &Admin) -> Value {
    let uptime = format!("{}s", admin.start.elapsed().as_secs());
    let mut info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": if *admin.draining.borrow() { "DRAINING" } else { "LIVE" },
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": { "concurrency": admin.concurrency },
    });
    let served = admin.served.load();
    let node = served.as_ref().map(|served| served.node());
    if let Some(node) = node.filter(|node| node.is_object()) {
        info["node"] = node.clone();
    }
    info
}

/// The allocator tells nothing, so that there is what the system says alone.
fn memory() -> Value {
    let bytes = resident().unwrap_or_default().to_string();
    json!({ "allocated": bytes, "heap_size": bytes, "total_physical_bytes": bytes })
}

fn logging(admin: &Admin, query: &Query) -> Answer {
    const USAGE: &str = "usage: /logging?level=<level> (everything), /logging?<target>=<level> (change single level), \
         /logging?paths=target1:level1,target2:level2,... (change multiple levels)\n";
    let Some(levels) = &admin.levels else {
        return reply(
            StatusCode::NOT_FOUND,
            TEXT,
            "this program has no levels to set\n",
        );
    };
    let changed = match changes(query) {
        Ok(changes) if changes.is_empty() => Ok(()),
        Ok(changes) => levels.set(&changes),
        Err(reason) => Err(reason.to_owned()),
    };
    match changed {
        Ok(()) => text(format!("active loggers:\n  {}\n", levels.shown())),
        Err(reason) => {
            let said = format!("error: {reason}\n\n{USAGE}");
            reply(StatusCode::BAD_REQUEST, TEXT, said)
        }
    }
}

/// Levels that a query sets, of everything or of a target, in its order.
fn changes(query: &Query) -> Result<Vec<(Option<&str>, &'static str)>, &'static str> {
    let mut changes = Vec::new();
    for (name, value) in &query.pairs {
        let ones = match name.as_str() {
            "level" => vec![(None, value.as_str())],
            "paths" => {
                let ones = value.split(',').map(|one| one.rsplit_once(':'));
                let ones = ones.map(|one| one.map(|(target, name)| (Some(target), name)));
                ones.collect::<Option<_>>().ok_or("expected TARGET:LEVEL")?
            }
            target => vec![(Some(target), value.as_str())],
        };
        for (target, name) in ones {
            changes.push((target, level(name).ok_or("unknown logger level")?));
        }
    }
    Ok(changes)
}

/// A level by one of Envoy's names.
fn level(name: &str) -> Option<&'static str> {
    Some(match name {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return None,
    })
}

/// The form that whoever collects numbers asks for.
fn form<B>(request: &Request<B>) -> Form {
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let mut kinds = accept.filter_map(|accept| accept.to_str().ok());
    match kinds.any(|kinds| kinds.contains("application/openmetrics-text")) {
        true => Form::Open,
        false => Form::Text,
    }
}

fn numbers(admin: &Admin, query: &Query, format: &str, form: Form) -> Answer {
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(refused) => return *refused,
    };
    let used_only = query.has("usedonly");
    let is_asked = |name: &str, count: u64| {
        let filter = filter.as_ref();
        filter.is_none_or(|filter| filter.is_match(name)) && (!used_only || count > 0)
    };
    let mut samples = admin.metrics.samples();
    samples.retain(|sample| is_asked(&sample.name, sample.value));
    let mut times = admin.metrics.times();
    times.retain(|sample| is_asked(&sample.name, sample.times.count));
    match format {
        "" | "text" => text(stats::plain(&samples)),
        "json" => reply(StatusCode::OK, JSON, stats::json(&samples).to_string()),
        "prometheus" => {
            let kind = match form {
                Form::Text => TEXT,
                Form::Open => OPEN_METRICS,
            };
            reply(
                StatusCode::OK,
                kind,
                stats::prometheus(&samples, &times, form),
            )
        }
        _ => reply(
            StatusCode::BAD_REQUEST,
            TEXT,
            "usage: /stats?format=(text|json|prometheus)\n",
        ),
    }
}

#[derive(Debug, Default)]
struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    fn parse(query: &str) -> Self {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self {
            pairs: pairs
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn format(&self) -> &str {
        self.get("format").unwrap_or_default()
    }

    fn is_json(&self) -> bool {
        self.format() == "json"
    }

    /// The filter, or the answer to one that is none.
    fn filter(&self) -> Result<Option<Regex>, Box<Answer>> {
        let filter = self.get("filter").map(stats::pattern).transpose();
        filter.map_err(|error| {
            Box::new(reply(
                StatusCode::BAD_REQUEST,
                TEXT,
                format!("filter: {error}\n"),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("usedonly&filter=ext%5Fproc.*");
        assert!(query.has("usedonly") && !query.has("format"));
        assert_eq!(query.get("filter"), Some("ext_proc.*"));
        assert!(Query::parse("filter=(").filter().is_err());
    }
}
