//! The page, as it is without its script.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::Inner;
use crate::{
    printed,
    ring::{Shared, lock},
};

/// Rows of the list that a page without a script has.
const STATIC_ROWS: usize = 200;

/// The page, with the last exchanges as a table for a browser without scripts.
pub(super) async fn page(State(inner): State<Arc<Inner>>) -> Response {
    const PLACE: &str = "<!-- rows -->";
    tracing::warn!("the inspector was opened");
    let records = inner.inspector.ring.all();
    let rows: String = records.iter().rev().take(STATIC_ROWS).map(row).collect();
    let page = include_str!("../../page/index.html").replace(PLACE, &rows);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn row(shared: &Shared) -> String {
    let record = lock(shared);
    let status = record
        .status
        .map(|status| status.to_string())
        .unwrap_or_default();
    let flags: Vec<&str> = record
        .processors
        .iter()
        .flat_map(|p| p.flags.clone())
        .collect();
    format!(
        "<tr><td><a href=\"/exchanges/{id}?format=text\">{id}</a></td><td>{}</td><td>{}{}</td><td>{status}</td><td>{}</td></tr>\n",
        escaped(&record.method),
        escaped(&record.authority),
        escaped(&record.path),
        escaped(&flags.join(", ")),
        id = record.id,
    )
}

/// A text without what HTML takes for its own, in one line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printed::line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
