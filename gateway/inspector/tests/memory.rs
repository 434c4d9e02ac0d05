//! The count of bytes of records is that of the bytes they take, whatever peers send.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use extproc_client::envoy_types::pb::{
    envoy::service::ext_proc::v3::ProcessingResponse,
    google::protobuf::{ListValue, Struct, Value, value::Kind},
};
use gateway_inspector::Settings;

use self::common::*;

const LIMIT: usize = 8 * 1024 * 1024;

/// Resident memory of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Metadata that is short on the wire and much as a tree of values.
fn nulls(count: usize) -> Struct {
    let null = Value {
        kind: Some(Kind::NullValue(0)),
    };
    let list = Value {
        kind: Some(Kind::ListValue(ListValue {
            values: vec![null; count],
        })),
    };
    Struct {
        fields: [("a".to_owned(), list)].into(),
    }
}

#[tokio::test]
async fn the_ring_takes_no_more_than_it_counts() {
    let mut settings = Settings::default();
    settings.exchanges = 1_000_000;
    settings.bytes = LIMIT;
    settings.bodies = 512;
    let inspector = inspector(settings);
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let heavy = Scripted::new(|_| {
        vec![ProcessingResponse {
            dynamic_metadata: Some(nulls(20_000)),
            ..request_headers(&[("x-a", "1")])
        }]
    });
    let many: Vec<(String, String)> = (0..60).map(|n| (format!("x-{n}"), String::new())).collect();
    let wide = Scripted::new(move |_| {
        let fields: Vec<(&str, &str)> = many
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        vec![request_headers(&fields)]
    });
    let skip = r#""processing_mode": {"response_header_mode": "SKIP"}"#;
    let before = resident();
    for (processor, count) in [(heavy, 150), (wide, 1500), (obliging(), 3000)] {
        for n in 0..count {
            let mut request = get(&format!("/{n}"));
            for name in 0..20 {
                request = request.header(format!("h{name}"), "");
            }
            request = request.header("authorization", format!("Bearer secret-{n}"));
            send(&inspector, config(skip), processor.clone(), request).await;
        }
        let state = ask(address, "GET /state", &[]).await;
        let state: serde_json::Value = serde_json::from_str(body(&state)).unwrap();
        let counted = usize::try_from(state["bytes"].as_u64().unwrap()).unwrap();
        assert!(counted <= LIMIT, "{state}");
        assert!(
            state["dropped"].as_u64().unwrap() > 0,
            "the ring is full: {state}"
        );
        let taken = resident().saturating_sub(before);
        // An allocator keeps some of what was freed.
        assert!(
            taken < 2 * LIMIT + 8 * 1024 * 1024,
            "{taken} bytes for {state}"
        );
    }
}
