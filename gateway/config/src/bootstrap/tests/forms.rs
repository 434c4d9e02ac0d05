use super::bad::{BASE, error};
use crate::{
    parse_envoy,
    snapshot::{Discovery, DnsFamily},
};

#[test]
fn messages_as_typed_struct() {
    let router = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let in_struct = |members: &str| {
        format!("\"@type\": type.googleapis.com/xds.type.v3.TypedStruct\n              {members}")
    };
    let url = "type_url: a/envoy.extensions.filters.http.router.v3.Router";
    let value = format!("{url}\n              value: {{suppress_envoy_headers: true}}");
    for members in [url, &url.replace("type_url", "typeUrl"), &value] {
        let text = BASE.replace(router, &in_struct(members));
        assert!(parse_envoy("envoy.yaml", &text).is_ok(), "{text}");
    }
    assert!(error(router, &in_struct("value: {}")).contains("missing field \"type_url\""));
    let unknown = format!("{url}\n              value: {{wrong: true}}");
    assert!(error(router, &in_struct(&unknown)).contains("unknown field \"wrong\""));
    for with in [url, &value] {
        let beside = format!("{with}\n              other: 1");
        assert!(error(router, &in_struct(&beside)).contains("unknown field \"other\""));
    }
}

#[test]
fn clusters_of_the_dns_extension() {
    let dns = |fields: &str| {
        format!(
            "cluster_type: {{name: a, typed_config: {{\"@type\": a/envoy.extensions.clusters.dns.v3.DnsCluster{fields}}}}}"
        )
    };
    let discovery = |text: &str| {
        let text = BASE.replace("type: STATIC", text);
        let snapshot = parse_envoy("envoy.yaml", &text).unwrap();
        snapshot.clusters["upstream"].clone()
    };
    let cluster = discovery(&dns(", dns_lookup_family: 2"));
    assert!(matches!(cluster.discovery, Discovery::StrictDns(_)));
    assert_eq!(cluster.dns, DnsFamily::V4Only);
    let both = format!("type: STATIC\n    {}", dns(""));
    assert!(error("type: STATIC", &both).contains("only one of type and cluster_type may be set"));
    let logical = dns(", all_addresses_in_single_endpoint: true");
    assert!(error("type: STATIC", &logical).contains("needs exactly one endpoint"));
}
