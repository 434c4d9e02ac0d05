//! `xds.type.matcher.v3.Matcher` and the older `envoy.config.common.matcher.v3.Matcher`, which read alike.

use std::net::IpAddr;

use extproc_client::config::StringMatcher;
use serde::Deserialize;

use super::{
    any::unsupported,
    cel::CelExpression,
    cluster::TypedExtensionConfig,
    value::{ByName, Whatever},
};
use crate::{
    document::{Fault, Located, NodeId, Reader},
    snapshot::{
        AddressRange, MatchAction, MatchInput, MatchKind, MatchTest, MatchTree,
        Predicate as PredicateModel, Then, ValueMatcher as ValueModel,
    },
};

const HEADER: &str = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
const QUERY: &str = "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput";
const ATTRIBUTES: &str = "xds.type.matcher.v3.HttpAttributesCelMatchInput";
const METADATA: &str = "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput";
const SOURCE_IP: &str = "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput";
const SOURCE_PORT: &str = "envoy.extensions.matching.common_inputs.network.v3.SourcePortInput";
const DIRECT_SOURCE_IP: &str =
    "envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput";
const DESTINATION_IP: &str =
    "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput";
const DESTINATION_PORT: &str =
    "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput";
const SERVER_NAME: &str = "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput";
const ENVIRONMENT: &str = "envoy.extensions.matching.common_inputs.environment_variable.v3.Config";

/// Inputs that are known when the head of a request is.
const INPUTS: &[&str] = &[
    HEADER,
    QUERY,
    ATTRIBUTES,
    METADATA,
    SOURCE_IP,
    SOURCE_PORT,
    DIRECT_SOURCE_IP,
    DESTINATION_IP,
    DESTINATION_PORT,
    SERVER_NAME,
    ENVIRONMENT,
];

const IP: &str = "envoy.extensions.matching.input_matchers.ip.v3.Ip";
const VALUE: &str = "envoy.extensions.matching.input_matchers.metadata.v3.Metadata";
const CEL: &str = "xds.type.matcher.v3.CelMatcher";

const TESTS: &[&str] = &[IP, VALUE, CEL];

/// `Matcher`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Matcher {
    matcher_list: Option<MatcherList>,
    matcher_tree: Option<Located<MatcherTree>>,
    on_no_match: Option<Located<Box<OnMatch>>>,
}

#[derive(Debug, Deserialize)]
struct MatcherList {
    matchers: Located<Vec<FieldMatcher>>,
}

#[derive(Debug, Deserialize)]
struct FieldMatcher {
    predicate: Located<Predicate>,
    on_match: Located<Box<OnMatch>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "MatchPredicate")]
struct Predicate {
    single_predicate: Option<Located<SinglePredicate>>,
    or_matcher: Option<PredicateList>,
    and_matcher: Option<PredicateList>,
    not_matcher: Option<Located<Box<Self>>>,
}

#[derive(Debug, Deserialize)]
struct PredicateList {
    predicate: Located<Vec<Located<Predicate>>>,
}

#[derive(Debug, Deserialize)]
struct SinglePredicate {
    input: TypedExtensionConfig,
    value_match: Option<StringMatcher>,
    custom_match: Option<TypedExtensionConfig>,
}

#[derive(Debug, Deserialize)]
struct MatcherTree {
    input: TypedExtensionConfig,
    exact_match_map: Option<MatchMap>,
    prefix_match_map: Option<MatchMap>,
}

#[derive(Debug, Deserialize)]
struct MatchMap {
    map: Located<ByName<Located<Box<OnMatch>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnMatch {
    matcher: Option<Located<Matcher>>,
    action: Option<TypedExtensionConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "HttpRequestHeaderMatchInput")]
struct HeaderInput {
    header_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "HttpRequestQueryParamMatchInput")]
struct QueryInput {
    query_param: String,
}

#[derive(Debug, Deserialize)]
struct DynamicMetadataInput {
    filter: String,
    path: Vec<Segment>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Segment {
    pub(super) key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "EnvironmentVariableInput")]
struct Environment {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "IpInputMatcher")]
struct Ip {
    cidr_ranges: Vec<Located<CidrRange>>,
}

/// `envoy.config.core.v3.CidrRange`.
#[derive(Debug, Deserialize)]
struct CidrRange {
    address_prefix: String,
    #[serde(default)]
    prefix_len: u8,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "MetadataInputMatcher")]
struct MetadataMatcher {
    value: Located<ValueMatcher>,
    #[serde(default)]
    invert: bool,
}

#[derive(Debug, Deserialize)]
struct CelMatcher {
    expr_match: Located<CelExpression>,
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ValueMatcher {
    null_match: Option<Whatever>,
    double_match: Option<Located<DoubleMatcher>>,
    string_match: Option<StringMatcher>,
    bool_match: Option<bool>,
    present_match: Option<bool>,
    list_match: Option<ListMatcher>,
    or_match: Option<OrMatcher>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DoubleMatcher {
    range: Option<DoubleRange>,
    exact: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DoubleRange {
    start: f64,
    end: f64,
}

#[derive(Debug, Deserialize)]
struct ListMatcher {
    one_of: Located<Box<ValueMatcher>>,
}

#[derive(Debug, Deserialize)]
struct OrMatcher {
    value_matchers: Vec<Located<ValueMatcher>>,
}

/// Reads what an action is, which is up to what is decided.
pub(super) type ReadAction<'a> = &'a dyn Fn(NodeId) -> Result<MatchAction, Fault>;

impl Located<Matcher> {
    /// The tree, whose inputs are of these types.
    pub(super) fn build(
        &self,
        reader: &Reader<'_>,
        action: ReadAction<'_>,
    ) -> Result<MatchTree, Fault> {
        let matcher = &self.value;
        let kind = match (&matcher.matcher_list, &matcher.matcher_tree) {
            (Some(list), None) => {
                if list.matchers.value.is_empty() {
                    return Err(Fault::at(list.matchers.node, "may not be empty"));
                }
                let matchers = list.matchers.value.iter().map(|matcher| {
                    Ok((
                        matcher
                            .predicate
                            .value
                            .build(reader, matcher.predicate.node)?,
                        matcher.on_match.build(reader, action)?,
                    ))
                });
                MatchKind::List(matchers.collect::<Result<_, _>>()?)
            }
            (None, Some(tree)) => tree.build(reader, action)?,
            (None, None) => MatchKind::default(),
            (Some(_), Some(_)) => {
                return Err(Fault::at(
                    self.node,
                    "only one of matcher_list and matcher_tree may be set",
                ));
            }
        };
        let on_no_match = matcher.on_no_match.as_ref();
        Ok(MatchTree {
            kind,
            on_no_match: on_no_match
                .map(|then| then.build(reader, action))
                .transpose()?,
        })
    }
}

impl Located<MatcherTree> {
    fn build(&self, reader: &Reader<'_>, action: ReadAction<'_>) -> Result<MatchKind, Fault> {
        let tree = &self.value;
        let node = tree.input.typed_config.node;
        let input = input(reader, node)?;
        if matches!(input, MatchInput::Attributes | MatchInput::Metadata(..)) {
            return Err(Fault::at(
                node,
                "this input is no text, which the map needs",
            ));
        }
        let build = |map: &MatchMap| {
            if map.map.value.is_empty() {
                return Err(Fault::at(map.map.node, "may not be empty"));
            }
            let entries = map.map.value.iter();
            entries
                .map(|(key, then)| Ok((key.clone(), then.build(reader, action)?)))
                .collect::<Result<Vec<_>, Fault>>()
        };
        match (&tree.exact_match_map, &tree.prefix_match_map) {
            (Some(map), None) => Ok(MatchKind::Exact(input, build(map)?.into_iter().collect())),
            (None, Some(map)) => {
                let mut entries = build(map)?;
                entries.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                Ok(MatchKind::Prefix(input, entries))
            }
            _ => Err(Fault::at(
                self.node,
                "one and only one of exact_match_map and prefix_match_map has to be set",
            )),
        }
    }
}

impl Located<Box<OnMatch>> {
    fn build(&self, reader: &Reader<'_>, action: ReadAction<'_>) -> Result<Then, Fault> {
        match (&self.value.matcher, &self.value.action) {
            (Some(matcher), None) => Ok(Then::Tree(Box::new(matcher.build(reader, action)?))),
            (None, Some(config)) => Ok(Then::Action(action(config.typed_config.node)?)),
            _ => Err(Fault::at(
                self.node,
                "one and only one of matcher and action has to be set",
            )),
        }
    }
}

impl Predicate {
    fn build(&self, reader: &Reader<'_>, node: NodeId) -> Result<PredicateModel, Fault> {
        let list = |list: &PredicateList| {
            if list.predicate.value.len() < 2 {
                return Err(Fault::at(
                    list.predicate.node,
                    "needs two predicates or more",
                ));
            }
            let all = list.predicate.value.iter();
            all.map(|one| one.value.build(reader, one.node)).collect()
        };
        match (
            &self.single_predicate,
            &self.or_matcher,
            &self.and_matcher,
            &self.not_matcher,
        ) {
            (Some(single), None, None, None) => single.build(reader),
            (None, Some(any), None, None) => Ok(PredicateModel::Or(list(any)?)),
            (None, None, Some(all), None) => Ok(PredicateModel::And(list(all)?)),
            (None, None, None, Some(not)) => {
                let inner = not.value.build(reader, not.node)?;
                Ok(PredicateModel::Not(Box::new(inner)))
            }
            _ => Err(Fault::at(
                node,
                "one and only one of single_predicate, or_matcher, and_matcher and not_matcher has to be set",
            )),
        }
    }
}

impl Located<SinglePredicate> {
    fn build(&self, reader: &Reader<'_>) -> Result<PredicateModel, Fault> {
        let node = self.value.input.typed_config.node;
        let input = input(reader, node)?;
        let test = match (&self.value.value_match, &self.value.custom_match) {
            (Some(text), None) => MatchTest::Text(text.clone()),
            (None, Some(custom)) => test(reader, custom.typed_config.node)?,
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one of value_match and custom_match has to be set",
                ));
            }
        };
        let fits = match (&input, &test) {
            (MatchInput::Attributes, MatchTest::Cel(_))
            | (MatchInput::Metadata(..), MatchTest::Value { .. }) => true,
            (MatchInput::Attributes | MatchInput::Metadata(..), _)
            | (_, MatchTest::Cel(_) | MatchTest::Value { .. }) => false,
            (_, MatchTest::Text(_) | MatchTest::Ip(_)) => true,
        };
        if !fits {
            return Err(Fault::at(
                node,
                "this input is nothing that the matcher can tell of",
            ));
        }
        Ok(PredicateModel::Single(input, test))
    }
}

fn input(reader: &Reader<'_>, node: NodeId) -> Result<MatchInput, Fault> {
    let plain = |input| {
        let _: Whatever = reader.read_typed(node)?;
        Ok(input)
    };
    match reader.type_of(node)? {
        HEADER => {
            let input: HeaderInput = reader.read_typed(node)?;
            Ok(MatchInput::Header(input.header_name.to_ascii_lowercase()))
        }
        QUERY => {
            let input: QueryInput = reader.read_typed(node)?;
            Ok(MatchInput::Query(input.query_param))
        }
        METADATA => {
            let DynamicMetadataInput { filter, path } = reader.read_typed(node)?;
            let path = path.into_iter().map(|segment| segment.key).collect();
            Ok(MatchInput::Metadata(filter, path))
        }
        ENVIRONMENT => {
            let Environment { name } = reader.read_typed(node)?;
            Ok(MatchInput::Environment(std::env::var(name).ok()))
        }
        ATTRIBUTES => plain(MatchInput::Attributes),
        SOURCE_IP => plain(MatchInput::SourceIp),
        SOURCE_PORT => plain(MatchInput::SourcePort),
        DIRECT_SOURCE_IP => plain(MatchInput::DirectSourceIp),
        DESTINATION_IP => plain(MatchInput::DestinationIp),
        DESTINATION_PORT => plain(MatchInput::DestinationPort),
        SERVER_NAME => plain(MatchInput::ServerName),
        other => Err(unsupported(node, other, INPUTS)),
    }
}

fn test(reader: &Reader<'_>, node: NodeId) -> Result<MatchTest, Fault> {
    match reader.type_of(node)? {
        IP => {
            let ip: Ip = reader.read_typed(node)?;
            let ranges = ip.cidr_ranges.iter().map(Located::<CidrRange>::build);
            Ok(MatchTest::Ip(ranges.collect::<Result<_, _>>()?))
        }
        VALUE => {
            let MetadataMatcher { value, invert } = reader.read_typed(node)?;
            Ok(MatchTest::Value {
                matcher: value.value.build(value.node)?,
                invert,
            })
        }
        CEL => {
            let matcher: CelMatcher = reader.read_typed(node)?;
            Ok(MatchTest::Cel(matcher.expr_match.build()?))
        }
        other => Err(unsupported(node, other, TESTS)),
    }
}

impl Located<CidrRange> {
    fn build(&self) -> Result<AddressRange, Fault> {
        let CidrRange {
            address_prefix,
            prefix_len,
        } = &self.value;
        let address: IpAddr = address_prefix
            .parse()
            .map_err(|_| Fault::at(self.node, format!("{address_prefix:?} is no IP address")))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if *prefix_len > longest {
            return Err(Fault::at(
                self.node,
                format!("a prefix_len of {prefix_len} is too long for the address"),
            ));
        }
        // Peers are never given as IPv4-mapped IPv6 addresses: a range of those is one of IPv4.
        let (address, length) = match (address.to_canonical(), prefix_len.checked_sub(96)) {
            (mapped, Some(length)) if mapped.is_ipv4() && address.is_ipv6() => (mapped, length),
            _ => (address, *prefix_len),
        };
        Ok(AddressRange { address, length })
    }
}

impl ValueMatcher {
    pub(super) fn build(&self, node: NodeId) -> Result<ValueModel, Fault> {
        let mut found = Vec::new();
        found.extend(self.null_match.map(|Whatever| ValueModel::Null));
        if let Some(number) = &self.double_match {
            found.push(match (&number.value.range, number.value.exact) {
                (None, Some(exact)) => ValueModel::Number(exact),
                (Some(range), None) => ValueModel::Range(range.start, range.end),
                _ => {
                    return Err(Fault::at(
                        number.node,
                        "one and only one of range and exact has to be set",
                    ));
                }
            });
        }
        found.extend(self.string_match.clone().map(ValueModel::Text));
        found.extend(self.bool_match.map(ValueModel::Bool));
        found.extend(self.present_match.map(ValueModel::Present));
        if let Some(list) = &self.list_match {
            let one = list.one_of.value.build(list.one_of.node)?;
            found.push(ValueModel::OneOf(Box::new(one)));
        }
        if let Some(any) = &self.or_match {
            let matchers = any.value_matchers.iter();
            let matchers = matchers.map(|matcher| matcher.value.build(matcher.node));
            found.push(ValueModel::Or(matchers.collect::<Result<_, _>>()?));
        }
        match (found.pop(), found.is_empty()) {
            (Some(matcher), true) => Ok(matcher),
            _ => Err(Fault::at(
                node,
                "one and only one form of a value matcher has to be set",
            )),
        }
    }
}
