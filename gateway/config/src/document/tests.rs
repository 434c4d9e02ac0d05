use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// A message with one field of each kind.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Message {
    a_text: String,
    number: u16,
    flag: bool,
    list: Vec<Inner>,
    map: BTreeMap<String, f64>,
    any: serde_json::Value,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Inner {
    wait_10: Option<String>,
}

fn rules(message: &str, field: &str) -> Option<Treatment> {
    match (message, field) {
        ("Message", "ignored") => Some(Treatment::Ignore),
        ("Message", "noted") => Some(Treatment::Note("is noted")),
        ("Message", "refused") => Some(Treatment::Refuse("is refused")),
        ("Message", "told") => Some(Treatment::NotePresence("is told")),
        ("Message", "present") => Some(Treatment::RefusePresence("is refused")),
        _ => None,
    }
}

fn read(text: &str) -> Result<Message, String> {
    let document = Document::parse("f", text).map_err(|error| error.to_string())?;
    let root = document.single().map_err(|error| error.to_string())?;
    Reader::new(&document, rules)
        .read(root)
        .map_err(|fault| document.error(fault).to_string())
}

#[test]
fn yaml_and_json_read_alike() {
    let yaml =
        "a_text: x\nnumber: 7\nflag: true\nlist:\n- wait_10: 1s\n- {}\nmap: {a_b: 1, c: 0.5}\n";
    let json = r#"{"aText": "x", "number": "7", "flag": true,
        "list": [{"wait10": "1s"}, {}], "map": {"a_b": 1.0, "c": "0.5"}}"#;
    let message = read(yaml).unwrap();
    assert_eq!(message, read(json).unwrap());
    assert_eq!(message.list[0].wait_10.as_deref(), Some("1s"));
    assert_eq!(message.map["a_b"], 1.0);
}

#[test]
fn scalars_follow_the_core_schema() {
    let any = |text: &str| read(&format!("any: {text}")).unwrap().any;
    for (text, value) in [
        ("true", serde_json::json!(true)),
        ("FALSE", serde_json::json!(false)),
        ("yes", serde_json::json!("yes")),
        ("on", serde_json::json!("on")),
        ("y", serde_json::json!("y")),
        ("\"true\"", serde_json::json!("true")),
        ("'1'", serde_json::json!("1")),
        ("1", serde_json::json!(1)),
        ("-1", serde_json::json!(-1)),
        ("-0", serde_json::json!(0)),
        ("0x1F", serde_json::json!(31)),
        ("0o17", serde_json::json!(15)),
        ("0x-1", serde_json::json!("0x-1")),
        ("1.5", serde_json::json!(1.5)),
        ("-1e3", serde_json::json!(-1000.0)),
        (".5", serde_json::json!(0.5)),
        ("1.", serde_json::json!(1.0)),
        ("1.2.3", serde_json::json!("1.2.3")),
        ("127.0.0.1", serde_json::json!("127.0.0.1")),
        ("18446744073709551615", serde_json::json!(u64::MAX)),
        ("!!str 1", serde_json::json!("1")),
        ("!!float 1", serde_json::json!(1.0)),
        ("[1, a, ~]", serde_json::json!([1, "a", null])),
    ] {
        assert_eq!(any(text), value, "{text}");
    }
}

#[test]
fn null_is_absent_and_fractions_are_strings_where_one_is_wanted() {
    assert_eq!(read("a_text: ~\nnumber:\n"), Ok(Message::default()));
    assert_eq!(read("a_text: 1.10").unwrap().a_text, "1.10");
}

#[test]
fn anchors_and_ignored_keys() {
    let text = "!ignore spare: &one {wait_10: 2s}\nlist: [*one, *one]\n";
    let message = read(text).unwrap();
    assert_eq!(message.list.len(), 2);
    assert_eq!(message.list[1].wait_10.as_deref(), Some("2s"));
}

#[test]
fn treatments() {
    let document =
        Document::parse("f", "ignored: 1\nnoted: [1]\nrefused: false\ntold: {}\n").unwrap();
    let reader = Reader::new(&document, rules);
    let _: Message = reader.read(document.single().unwrap()).unwrap();
    let notes: Vec<String> = reader
        .into_notes()
        .0
        .into_iter()
        .map(|note| document.error(note).to_string())
        .collect();
    assert_eq!(notes, ["f:2:8: noted: is noted", "f:4:7: told: is told"]);
    assert_eq!(
        read("refused: 1"),
        Err("f:1:10: refused: is refused".into())
    );
    assert_eq!(
        read("present: {}"),
        Err("f:1:10: present: is refused".into())
    );
    let document = Document::parse("f", "refused: 1\nnone: 2\nignored: 1\n").unwrap();
    let reader = Reader::collecting(&document, rules);
    let _: Message = reader.read(document.single().unwrap()).unwrap();
    assert_eq!(reader.refused().fields.len(), 2, "all of them");
    assert_eq!(reader.into_notes().1.len(), 1);
}

#[test]
fn errors_have_their_place() {
    let deep = "[".repeat(200);
    for (text, expected) in [
        ("", "f: the file is empty"),
        ("--- {}\n--- {}\n", "f:2:5: only one document is expected"),
        ("- 1", "f:1:1: expected a mapping, found a sequence"),
        (
            "number: 70000",
            "f:1:9: number: expected an integer from 0 to 65535, found 70000",
        ),
        (
            "number: a",
            "f:1:9: number: expected an integer from 0 to 65535, found \"a\"",
        ),
        (
            "flag: yes",
            "f:1:7: flag: expected a boolean, found \"yes\"",
        ),
        (
            "flag: \"true\"",
            "f:1:7: flag: expected a boolean, found \"true\"",
        ),
        (
            "a_text: 5",
            "f:1:9: a_text: expected a string, found 5; put it in quotes",
        ),
        (
            "list:\n- {}\n- [1]\n",
            "f:3:3: list[1]: expected a mapping, found a sequence",
        ),
        (
            "list: {}",
            "f:1:7: list: expected a sequence, found a mapping",
        ),
        (
            "map: {a.b: x}",
            "f:1:12: map[\"a.b\"]: expected a number, found \"x\"",
        ),
        (
            "list:\n- wait_10: 1s\n  wiat: 2s\n",
            "f:3:3: list[0]: unknown field \"wiat\", expected wait_10",
        ),
        (
            "flag: true\nflag: true\n",
            "f:2:1: field \"flag\" is given twice",
        ),
        (
            "a_text: a\naText: b\n",
            "f:2:1: field \"a_text\" is given twice",
        ),
        (
            "map: {a: 1, a: 2}",
            "f:1:13: map: field \"a\" is given twice",
        ),
        (
            "any: *nope",
            "f:1:6: while parsing node, found unknown anchor",
        ),
        (
            "any: &a [*a]",
            "f:1:10: any: an alias may not stand inside the value it repeats",
        ),
        ("any: !new x", "f:1:6: unknown tag !new"),
        ("any: !!int x", "f:1:6: \"x\" does not fit the tag !!int"),
        ("? [a]\n: b\n", "f:1:3: a key has to be a string"),
        (&format!("any: {deep}"), "nested deeper than 100 levels"),
    ] {
        let error = read(text).unwrap_err();
        let good = match expected.starts_with('f') {
            true => error == expected,
            false => error.ends_with(expected),
        };
        assert!(good, "{text:?}\n  gave     {error}\n  expected {expected}");
    }
}

#[test]
fn broken_yaml_has_its_place() {
    for text in [
        "a: [1",
        "a: \"b",
        "a: b: c",
        "a:\n\t- b",
        "{a: 1]",
        "a: 'b\nc: d",
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with("f:"), "{text:?}: {error}");
        assert!(
            error[2..].starts_with(|c: char| c.is_ascii_digit()),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn aliases_cannot_make_a_small_file_large() {
    let mut text = String::from("any:\n- &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        _ = writeln!(text, "- &a{level} [{before}]");
    }
    let error = read(&text).unwrap_err();
    assert!(
        error.contains("aliases repeat more than 100000 values"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "\\PC*") {
        _ = read(&text);
    }

    #[test]
    fn any_yaml_like_text_gives_an_answer(
        text in "([ \\n]{0,3}(- |\\? |: |a|a_text: |list: |&x |\\*x|!|!!str |\"|'|\\[|\\]|\\{|\\}|, |1|#|\\||>|%|---\n|\\.\\.\\.\n|\t|\u{feff})){0,40}"
    ) {
        _ = read(&text);
    }
}
