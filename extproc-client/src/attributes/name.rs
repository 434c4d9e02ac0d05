//! Expressions that are the name of an attribute or one header, read without CEL.

use super::{Form, Headers, Vocabulary};

/// Words that name nothing in CEL.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// The form of `text`, if it is `root`, `root.field`, `root.headers.name` or `root.headers['name']`.
pub(super) fn parse(text: &str, vocabulary: Vocabulary) -> Option<Form> {
    let (root, rest) = identifier(text)?;
    if rest.is_empty() {
        return Some(Form::Name(root.into(), None));
    }
    let (field, rest) = identifier(rest.strip_prefix('.')?)?;
    if rest.is_empty() {
        let field = vocabulary.rename(root, field).unwrap_or(field);
        return Some(Form::Name(root.into(), Some(field.into())));
    }
    let headers = Headers::of(root, field)?;
    let name = match rest.strip_prefix('.') {
        Some(rest) => match identifier(rest)? {
            (name, "") => name,
            _ => return None,
        },
        None => literal(rest.strip_prefix('[')?.strip_suffix(']')?.trim())?,
    };
    Some(Form::Header(headers, name.to_ascii_lowercase().into()))
}

/// An identifier at the beginning of `text`, and what follows; white space around it does not matter.
fn identifier(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_ascii_start();
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.contains(&name);
    is_name.then(|| (name, rest.trim_ascii_start()))
}

/// The content of a string literal without escapes.
fn literal(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| "'\"".contains(*c))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let plain = |c: char| c != quote && c != '\\' && c != '\n' && c != '\r';
    inner.chars().all(plain).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[&str] = &[
        "request",
        "request.path",
        " request . path ",
        "source.address",
        "no.such",
        "request.headers",
        "request.headers.x_a",
        "request.headers['X-A']",
        "request.headers[ \"x'a\" ]",
        "response.trailers['grpc-status']",
    ];
    const MORE: &[&str] = &[
        "",
        "1",
        "true",
        "request.",
        "request.headers['a'] == 'b'",
        "request.headers['a']['b']",
        "request.headers[a]",
        r"request.headers['\x61']",
        "request.path.size()",
        "xds.node.id",
        "metadata.filter_metadata['a']",
        "'text'",
        "-request.size",
        "request.headers['''a''']",
        "request.headers['a' + 'b']",
    ];

    #[test]
    fn names_and_headers_are_read_and_nothing_else() {
        for text in PLAIN {
            assert!(parse(text, Vocabulary::Envoy).is_some(), "{text}");
        }
        for text in MORE {
            assert!(parse(text, Vocabulary::Envoy).is_none(), "{text}");
        }
    }

    #[cfg(feature = "cel")]
    #[test]
    fn cel_reads_them_the_same() {
        for vocabulary in [Vocabulary::Envoy, Vocabulary::Agentgateway] {
            for text in PLAIN {
                let ours = format!("{:?}", parse(text, vocabulary).unwrap());
                let cel =
                    super::super::cel::compile(text, vocabulary, super::super::Shape::Printed);
                assert_eq!(format!("{:?}", cel.expect(text)), ours, "{text}");
            }
        }
    }

    #[cfg(not(feature = "cel"))]
    #[test]
    fn an_expression_that_needs_cel_names_the_feature() {
        let error = super::super::Expression::compile("request.path == '/'").unwrap_err();
        assert!(error.to_string().contains("feature `cel`"), "{error}");
    }
}
