//! Instructions that are understood, and the errors for all others.

use super::*;

fn parse(value: &str) -> Result<Instruction, InvalidInstruction> {
    Instruction::parse(value.as_bytes(), Target::Request)
}

#[track_caller]
fn refused(value: &str, position: Option<(usize, usize)>, reason: &str) {
    let error = parse(value).unwrap_err();
    assert_eq!(error.reason(), reason, "{value}");
    assert_eq!(error.position(), position, "{value}");
    assert!(error.to_string().contains(EXAMPLE), "{value}");
}

#[test]
fn everything_that_can_be_said() {
    let instruction = parse(
        r#" {"addHeaders":{"b":"1","A":"ü"},"removeHeaders":["c"],"setBody":"x","setTrailers":{"t":""}} "#,
    )
    .unwrap();
    assert_eq!(
        instruction,
        Instruction {
            add_headers: vec![
                ("b".to_owned(), "1".to_owned()),
                ("A".to_owned(), "ü".to_owned())
            ],
            remove_headers: vec!["c".to_owned()],
            set_body: Some("x".to_owned()),
            set_trailers: vec![("t".to_owned(), String::new())],
            respond: None,
        }
    );
    let respond = parse(r#"{"respond":{"status":403}}"#).unwrap().respond;
    assert_eq!(
        respond,
        Some(Respond {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            body: String::new()
        })
    );
    assert_eq!(parse("{}").unwrap(), Instruction::default());
    assert_eq!(parse(EXAMPLE).unwrap().remove_headers.len(), 2);
}

#[test]
fn the_sample_of_the_guide_is_explained() {
    let pasted = r#"{ "addHeaders": { "header1": "value1", "header2": "value2" }, { "removeHeaders": [ "header3", "header4" ], } }"#;
    let error = parse(pasted).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"malformed instructions at line 1 column 63: a key in double quotes is expected here; all keys belong into one pair of braces

  { "addHeaders": { "header1": "value1", "header2": "value2" }, { "removeHeaders": [
                                                                ^

correct example:

  {"addHeaders":{"header1":"value1","header2":"value2"},"removeHeaders":["header3","header4"]}
"#
    );
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    refused("", None, "the header is empty");
    refused("  ", None, "the header is empty");
    refused(
        r#"{"setBody":"x",}"#,
        Some((1, 16)),
        "there must be no comma before the closing bracket",
    );
    refused(
        "{} {}",
        Some((1, 4)),
        "the object has ended, nothing may follow it",
    );
    refused("{\"a", Some((1, 3)), "EOF while parsing a string");
    assert_eq!(
        Instruction::parse(b"{\xff}", Target::Request)
            .unwrap_err()
            .position(),
        Some((1, 2))
    );
}

#[test]
fn what_is_no_instruction_is_refused_with_its_place() {
    refused(
        r#"{"addHeader":{"a":"b"}}"#,
        Some((1, 12)),
        "unknown field `addHeader`, expected one of `addHeaders`, `removeHeaders`, `setBody`, `setTrailers`, `respond`",
    );
    refused(
        r#"{"addHeaders":["a"]}"#,
        Some((1, 14)),
        "invalid type: sequence, expected an object of strings, like {\"header1\":\"value1\"}",
    );
    refused(
        r#"{"addHeaders":{"a":1}}"#,
        Some((1, 20)),
        "invalid type: integer `1`, expected a string",
    );
    refused(
        r#"{"addHeaders":{"a":"1","A":"2"}}"#,
        Some((1, 26)),
        "\"A\" is given twice",
    );
    refused(
        "[]",
        Some((1, 1)),
        "invalid type: sequence, expected a JSON object with the keys addHeaders, removeHeaders, setBody, setTrailers or respond",
    );
}

#[test]
fn what_http_does_not_allow_is_refused() {
    refused(
        r#"{"addHeaders":{"a b":"1"}}"#,
        Some((1, 20)),
        r#"header name "a b" contains ' ', which is not allowed in a header name"#,
    );
    refused(
        r#"{"addHeaders":{"a":"x\r\ny"}}"#,
        Some((1, 28)),
        r#"the value of "a" contains byte 0x0d at offset 1, which is not allowed in a header value"#,
    );
    refused(
        r#"{"removeHeaders":[":path"]}"#,
        Some((1, 26)),
        r#"":path" cannot be removed"#,
    );
    refused(
        r#"{"addHeaders":{":status":"200"}}"#,
        None,
        r#"in "addHeaders": pseudo-header ":status" cannot be set on a request"#,
    );
    refused(
        r#"{"setTrailers":{":path":"/"}}"#,
        None,
        r#"in "setTrailers": pseudo-header ":path" cannot be set on trailers"#,
    );
    refused(
        r#"{"respond":{"status":99}}"#,
        Some((1, 24)),
        "status 99 is not between 200 and 599",
    );
    refused(
        r#"{"respond":[200]}"#,
        Some((1, 11)),
        "invalid type: sequence, expected an object with the keys status, headers and body",
    );
    refused(
        r#"{"respond":{"status":200},"setBody":"x"}"#,
        None,
        "\"respond\" ends the exchange and cannot be combined with other keys",
    );
    assert!(Instruction::parse(br#"{"addHeaders":{":status":"404"}}"#, Target::Response).is_ok());
}

#[test]
fn two_headers_are_merged() {
    let mut first = parse(r#"{"addHeaders":{"a":"1"},"setBody":"x"}"#).unwrap();
    first.merge(parse(r#"{"addHeaders":{"b":"2"}}"#).unwrap());
    assert_eq!(first.add_headers.len(), 2);
    assert_eq!(first.set_body.as_deref(), Some("x"));
}

mod whatever {
    use proptest::prelude::*;

    use super::*;

    /// JSON and nearly JSON: the words of the grammar in any order.
    fn nearly() -> impl Strategy<Value = String> {
        const WORDS: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            " ",
            "\n",
            "null",
            "1",
            "-",
            "1e9",
            "\"a\"",
            "\"ü\"",
            "\"addHeaders\"",
            "\"removeHeaders\"",
            "\"setBody\"",
            "\"setTrailers\"",
            "\"respond\"",
            "\"status\"",
            "\"headers\"",
            "\"body\"",
            "403",
            "\":path\"",
            "\"a b\"",
        ];
        prop::collection::vec(prop::sample::select(WORDS), 0..30).prop_map(|words| words.concat())
    }

    fn check(value: &[u8]) {
        for target in [Target::Request, Target::Response] {
            match Instruction::parse(value, target) {
                Ok(instruction) => {
                    for (name, value) in &instruction.add_headers {
                        assert!(validate::set_name(name, target).is_ok());
                        assert!(validate::set_value(name, value.as_bytes()).is_ok());
                    }
                    for (name, value) in &instruction.set_trailers {
                        assert!(http::HeaderName::from_bytes(name.as_bytes()).is_ok());
                        assert!(http::HeaderValue::from_str(value).is_ok());
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.ends_with(&format!("{EXAMPLE}\n")));
                    assert!(!text.contains('\r'));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_do_no_harm(value in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&value);
        }

        #[test]
        fn nearly_json_does_no_harm(value in nearly()) {
            check(value.as_bytes());
        }

        #[test]
        fn what_is_asked_is_what_is_read(
            headers in prop::collection::btree_map("[a-z][a-z0-9-]{0,10}", "[ -~é]{0,20}", 0..5),
            body in prop::option::of(".{0,40}"),
        ) {
            let json = serde_json::json!({"addHeaders": headers, "setBody": body});
            let read = Instruction::parse(json.to_string().as_bytes(), Target::Request).unwrap();
            prop_assert_eq!(read.add_headers, Vec::from_iter(headers));
            prop_assert_eq!(read.set_body, body);
        }
    }
}
