//! The request as a command of a shell.

use std::fmt::Write as _;

use super::{OF_CLIENT, OF_PROXY, fields, has_length, kept, path};
use crate::{
    printed,
    record::{Message, Record},
};

/// Most bytes of a body that go into an argument. A system has a limit for those.
const ARGUMENT: usize = 32 * 1024;

/// The request as a command of any POSIX shell. It goes to the gateway that took the request, whatever host is asked for,
/// with the headers that it came with and no others. Comments before it say what is not as it was.
pub(crate) fn curl(record: &Record) -> String {
    let nothing = Message::default();
    let first = record.processors.first();
    let message = first.map_or(&nothing, |first| &first.request.before);
    let mut options = Options(String::from("curl -i"));
    match record.method.as_str() {
        // An answer to another method has a body, which would be waited for.
        "HEAD" => options.0.push_str(" --head"),
        method => {
            options.0.push_str(" -X");
            options.word(method);
        }
    }
    let path = path(record);
    let target = match is_plain(&path) {
        true => path.as_ref(),
        false => "/",
    };
    let host = match &record.entrance {
        None => {
            if record.authority.contains(['[', '{']) {
                options.0.push_str(" --globoff");
            }
            options.word(&format!("http://{}{target}", record.authority));
            None
        }
        Some(entrance) => {
            let at = entrance.address;
            match (entrance.protocol, &entrance.tls) {
                ("HTTP/1.0", _) => options.0.push_str(" --http1.0"),
                ("HTTP/2", None) => options.0.push_str(" --http2-prior-knowledge"),
                ("HTTP/2", Some(_)) => options.0.push_str(" --http2"),
                _ => options.0.push_str(" --http1.1"),
            }
            match &entrance.tls {
                // The name is that of the handshake, and the connection goes where it went.
                Some(name) if !name.is_empty() => {
                    let port = at.port();
                    options.option("--connect-to", &format!("::{at}"));
                    options.word(&format!("https://{name}:{port}{target}"));
                }
                Some(_) => options.word(&format!("https://{at}{target}")),
                None => options.word(&format!("http://{at}{target}")),
            }
            Some(record.authority.as_str())
        }
    };
    if target != path {
        options.option("--request-target", &path);
    }
    if let Some(host) = host {
        options.header("host", host.as_bytes());
    }
    for field in fields(&message.head) {
        let name = field.name.as_str();
        let of_proxy = record.entrance.is_some() && OF_PROXY.contains(&name);
        if !OF_CLIENT.contains(&name) && !of_proxy {
            options.header(name, field.bytes());
        }
    }
    let has = |name: &str| fields(&message.head).any(|field| field.name == name);
    if has("upgrade") {
        options.header("connection", b"Upgrade");
    }
    for own in ["accept", "user-agent"] {
        if !has(own) {
            options.without(own);
        }
    }
    let mut comments = String::new();
    let mut before = String::new();
    if record.method == "HEAD" {
        if message.bytes > 0 {
            comments.push_str("# curl sends no body with HEAD\n");
        }
    } else if message.bytes > 0 || has_length(message) {
        for own in ["content-type", "expect"] {
            if !has(own) {
                options.without(own);
            }
        }
        let is_http2 = record
            .entrance
            .as_ref()
            .is_some_and(|entrance| entrance.protocol == "HTTP/2");
        match (has_length(message), is_http2) {
            (true, _) => {}
            (false, true) => options.without("content-length"),
            (false, false) => options.header("transfer-encoding", b"chunked"),
        }
        before = body(message, &mut options, &mut comments);
    }
    if message.trailers.as_ref().is_some_and(|all| !all.is_empty()) {
        comments.push_str("# curl sends no trailers\n");
    }
    format!("{comments}{before}{}\n", options.0)
}

/// Gives the command that writes the body for curl, if it is no argument.
fn body(message: &Message, options: &mut Options, comments: &mut String) -> String {
    let kept = kept(message);
    let missing = message.bytes.saturating_sub(kept.len() as u64);
    let text = std::str::from_utf8(&kept);
    if missing == 0
        && kept.len() <= ARGUMENT
        && let Ok(text) = text
        && printed::line(text) == text
    {
        // `--data-raw` takes an `@` at the beginning as it is.
        options.option("--data-raw", text);
        return String::new();
    }
    options.option("--data-binary", "@-");
    // Never empty: there is something hidden in it, or something missing.
    let written = format!("printf {}", escaped(&kept));
    if missing == 0 {
        return format!("{written} |\n");
    }
    let _ = writeln!(
        comments,
        "# {missing} bytes of the body were not recorded and stand as ?"
    );
    let fill = format!("head -c {missing} /dev/zero | tr '\\0' '?'");
    match kept.is_empty() {
        true => format!("{fill} |\n"),
        false => format!("{{ {written}; {fill}; }} |\n"),
    }
}

/// Tells whether curl takes this path as it is: no segments that it would resolve, nothing that it would expand.
fn is_plain(path: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=%/?".contains(&b);
    let only = path.split('?').next().unwrap_or_default();
    let dots = |segment: &str| {
        matches!(
            segment.replace("%2e", ".").replace("%2E", ".").as_str(),
            "." | ".."
        )
    };
    path.starts_with('/') && path.bytes().all(is_plain) && !only.split('/').any(dots)
}

/// The command, as far as it is there.
struct Options(String);

impl Options {
    fn word(&mut self, word: &str) {
        let _ = write!(self.0, " {}", quoted(word.as_bytes()));
    }

    fn option(&mut self, name: &str, value: &str) {
        let _ = write!(self.0, " \\\n  {name} {}", quoted(value.as_bytes()));
    }

    fn header(&mut self, name: &str, value: &[u8]) {
        let mut field = name.as_bytes().to_vec();
        match value.is_empty() {
            // A header without a value is written with a semicolon.
            true => field.push(b';'),
            false => {
                field.extend_from_slice(b": ");
                field.extend_from_slice(value);
            }
        }
        let _ = write!(self.0, " \\\n  -H {}", quoted(&field));
    }

    /// Leaves out a header that curl would add.
    fn without(&mut self, name: &str) {
        let _ = write!(self.0, " \\\n  -H '{name}:'");
    }
}

/// A text for a shell, which takes nothing in it for its own, in one line. What is hidden or no text is written by `printf`; a
/// line break at the end would be lost, which no header and no URL has.
fn quoted(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(text) if printed::line(text) == text => format!("'{}'", text.replace('\'', r"'\''")),
        _ => format!("\"$(printf {})\"", escaped(text)),
    }
}

/// Bytes as the format of `printf`, in quotes.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    out.push('\'');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let as_text = c.encode_utf8(&mut utf8);
            // A minus at the beginning would be an option, and `!` is an old command to a shell that somebody types in.
            let is_plain =
                !matches!(c, '\'' | '\\' | '%' | '-' | '!') && *printed::line(as_text) == *as_text;
            match (c, is_plain) {
                ('\n', _) => out.push_str("\\n"),
                ('%', _) => out.push_str("%%"),
                (c, true) => out.push(c),
                _ => octal(&mut out, as_text.as_bytes()),
            }
        }
        octal(&mut out, chunk.invalid());
    }
    out.push('\'');
    out
}

fn octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\{byte:03o}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_nothing_for_its_own() {
        assert_eq!(
            quoted("a'; rm -rf $HOME `x` \\".as_bytes()),
            r"'a'\''; rm -rf $HOME `x` \'"
        );
        assert_eq!(
            quoted("-a'%\n\u{202e}\\$(x)".as_bytes()),
            r#""$(printf '\055a\047%%\n\342\200\256\134$(x)')""#
        );
        assert_eq!(quoted(b"caf\xe9"), r#""$(printf 'caf\351')""#);
    }

    #[test]
    fn paths_that_curl_takes_as_they_are() {
        for path in ["/", "/a?b=c&d=%20", "/a..b/...", "/a?../b"] {
            assert!(is_plain(path), "{path}");
        }
        for path in ["*", "/a/../b", "/.", "/%2e%2E/", "/{a,b}", "/a?b[]=1", "/ü"] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
