//! Forms in which an exchange can be taken away.

mod fake_proxy;
mod scenario;

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) use self::{fake_proxy::fake_proxy, scenario::scenario};
use crate::{
    printed,
    record::{Field, Record},
};

/// Headers that a client sets by itself.
const OF_CLIENT: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// The request as a command line of curl.
pub(crate) fn curl(record: &Record) -> String {
    let url = format!("http://{}{}", record.authority, record.path);
    let mut out = format!("curl -i -X {} {}", quoted(&record.method), quoted(&url));
    let Some(first) = record.processors.first() else {
        return out + "\n";
    };
    for (name, value) in fields(&first.request.before.head) {
        if !OF_CLIENT.contains(&name.as_str()) {
            // A header without a value is written with a semicolon.
            let field = match value.is_empty() {
                true => format!("{name};"),
                false => format!("{name}: {value}"),
            };
            let _ = write!(out, " \\\n  -H {}", quoted(&field));
        }
    }
    let body = &first.request.before.body;
    match STANDARD.decode(body).map(String::from_utf8) {
        Ok(Ok(text)) if text.is_empty() => {}
        Ok(Ok(text)) if !text.contains('\0') => {
            // `--data-raw` takes an `@` at the beginning as it is.
            let _ = write!(out, " \\\n  --data-raw {}", quoted(&text));
        }
        _ => {
            return format!("echo {body} | base64 -d | {out} \\\n  --data-binary @-\n");
        }
    }
    out + "\n"
}

/// A text for a shell, which takes nothing in it for its own, in one line: hidden characters are written out for bash.
fn quoted(text: &str) -> String {
    if printed::line(text) == text {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    format!("$'{}'", text.as_bytes().escape_ascii())
}

fn fields(head: &Option<Vec<Field>>) -> impl Iterator<Item = &Field> {
    let all = head.iter().flatten();
    all.filter(|(name, _)| !name.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_nothing_for_its_own() {
        assert_eq!(quoted("a'\n\u{202e}\\"), r"$'a\'\n\xe2\x80\xae\\'");
        assert_eq!(quoted("a'; rm -rf $HOME `x`"), r"'a'\''; rm -rf $HOME `x`'");
    }
}
