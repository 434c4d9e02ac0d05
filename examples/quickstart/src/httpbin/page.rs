//! Fixed documents, and the landing page with the list of endpoints.

use std::fmt::Write as _;

use axum::{http::HeaderValue, response::Response};

use super::reply;

/// An endpoint as the landing page shows it: a path to try, a name for it, and what it does.
///
/// A path that is not for browsers (another method, an upgrade) has an empty first field.
pub(super) const ENDPOINTS: &[(&str, &str, &str)] = &[
    ("/headers", "/headers", "the request's headers"),
    ("/get?a=1", "/get", "the request, without a body"),
    (
        "",
        "/post /put /patch /delete",
        "the request with its body, for that method",
    ),
    (
        "/anything/at/all",
        "/anything/…",
        "the request with its body, for any method and path",
    ),
    ("/ip", "/ip", "the client's address"),
    ("/user-agent", "/user-agent", "the client's name for itself"),
    ("/uuid", "/uuid", "a random UUID"),
    ("/hostname", "/hostname", "a fixed name"),
    (
        "/status/418",
        "/status/{code}",
        "that status; 200:0.9,500:0.1 chooses by weight",
    ),
    (
        "/unstable?failure_rate=0.2",
        "/unstable?failure_rate=&seed=",
        "500 now and then",
    ),
    (
        "/response-headers?x-color=red",
        "/response-headers?name=value",
        "a response with those headers",
    ),
    (
        "/trailers?x-color=red",
        "/trailers?name=value",
        "the request, followed by those trailers",
    ),
    (
        "/redirect/3",
        "/redirect/{n} /relative-redirect/{n} /absolute-redirect/{n}",
        "n redirects, then /get",
    ),
    (
        "/redirect-to?url=/ip&status_code=307",
        "/redirect-to?url=&status_code=",
        "a redirect there",
    ),
    (
        "/bytes/1024",
        "/bytes/{n}?seed=",
        "n random bytes, at most 100 KiB",
    ),
    (
        "/stream-bytes/1024?chunk_size=100",
        "/stream-bytes/{n}?seed=&chunk_size=",
        "the same in chunks",
    ),
    ("/stream/5", "/stream/{n}", "n lines of JSON, at most 100"),
    (
        "/drip?numbytes=5&duration=2s&delay=0",
        "/drip?numbytes=&duration=&delay=&code=",
        "bytes, slowly",
    ),
    (
        "/delay/0.5",
        "/delay/{duration}",
        "the request, after a while (at most 10 s)",
    ),
    (
        "/sse?count=3&duration=1s",
        "/sse?count=&duration=&delay=",
        "server-sent events",
    ),
    (
        "",
        "/websocket/echo?max_fragment_size=&max_message_size=",
        "a WebSocket that echoes",
    ),
    ("/gzip", "/gzip /deflate", "the request, compressed"),
    (
        "/base64/aGVsbG8=",
        "/base64/{data} /base64/encode/{data}",
        "base64 decoded, or encoded",
    ),
    ("/cache", "/cache", "304 to a conditional request"),
    (
        "/cache/60",
        "/cache/{seconds}",
        "a response that may be cached that long",
    ),
    ("/cookies", "/cookies", "the client's cookies"),
    (
        "/cookies/set?taste=good",
        "/cookies/set?name=value /cookies/delete?name",
        "sets or deletes cookies",
    ),
    (
        "/basic-auth/user/secret",
        "/basic-auth/{user}/{password}",
        "asks for that user and password",
    ),
    (
        "/hidden-basic-auth/user/secret",
        "/hidden-basic-auth/{user}/{password}",
        "the same, with 404 for strangers",
    ),
    ("/bearer", "/bearer", "asks for a bearer token"),
    ("/json", "/json /xml /html", "a sample document"),
    (
        "/robots.txt",
        "/robots.txt /deny",
        "what robots may visit, and may not",
    ),
];

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
td{padding:.15em 1em .15em 0;vertical-align:top}code{font-size:90%}";

pub(super) async fn landing() -> Response {
    let mut rows = String::new();
    for (example, name, meaning) in ENDPOINTS {
        let name = escape(name);
        let shown = match *example {
            "" => format!("<code>{name}</code>"),
            example => format!("<a href=\"{}\"><code>{name}</code></a>", escape(example)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "<tr><td>{shown}<td>{}", escape(meaning));
    }
    reply::typed(
        reply::HTML,
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>httpbin</title>\n\
             <style>{STYLE}</style>\n<h1>httpbin</h1>\n\
             <p>An HTTP server that answers with what it was asked, in the form of go-httpbin.\n\
             <table>\n{rows}</table>\n</html>\n"
        ),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

pub(super) async fn json() -> Response {
    reply::typed(reply::JSON, SAMPLE_JSON)
}

pub(super) async fn html() -> Response {
    reply::typed(reply::HTML, SAMPLE_HTML)
}

pub(super) async fn xml() -> Response {
    reply::typed(HeaderValue::from_static("application/xml"), SAMPLE_XML)
}

pub(super) async fn robots() -> Response {
    reply::typed(reply::TEXT, "User-agent: *\nDisallow: /deny\n")
}

pub(super) async fn deny() -> Response {
    reply::typed(reply::TEXT, "robots were asked not to come here\n")
}

const SAMPLE_JSON: &str = r#"{
  "slideshow": {
    "author": "a gateway",
    "date": "any day",
    "slides": [
      {
        "title": "Where a request goes",
        "type": "all"
      },
      {
        "items": [
          "through the <em>gateway</em>",
          "past the <em>processor</em>"
        ],
        "title": "Stations",
        "type": "all"
      }
    ],
    "title": "A Short Journey"
  }
}
"#;

const SAMPLE_XML: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<slideshow title="A Short Journey" author="a gateway">
  <slide type="all"><title>Where a request goes</title></slide>
  <slide type="all">
    <title>Stations</title>
    <item>through the <em>gateway</em></item>
    <item>past the <em>processor</em></item>
  </slide>
</slideshow>
"#;

const SAMPLE_HTML: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>A Short Journey</title>
<h1>A Short Journey</h1>
<p>A request set out one morning to see the upstream. At the gateway it was asked to wait, for someone had to have a look
at its headers. They were found in order, one was added for luck, and it went on its way. The upstream told it everything
it knew, which was what the request had brought along.
</html>
";
