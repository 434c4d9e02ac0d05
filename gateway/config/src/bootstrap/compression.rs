//! The filters `compressor` and `decompressor`.

use std::sync::Arc;

use extproc_client::config::StringMatcher;
use http::StatusCode;
use serde::Deserialize;

use super::{
    any::unsupported,
    filter::Making,
    value::{Enum, ProtoEnum},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        Coding, Compressible, Compressor as CompressorModel, Decoding, Decompressible,
        Decompressor as DecompressorModel, Etag, FilterKind,
    },
};

pub(super) const COMPRESSOR: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";
pub(super) const COMPRESSOR_PER_ROUTE: &str =
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute";
pub(super) const DECOMPRESSOR: &str = "envoy.extensions.filters.http.decompressor.v3.Decompressor";

const GZIP: &str = "envoy.extensions.compression.gzip.compressor.v3.Gzip";
const BROTLI: &str = "envoy.extensions.compression.brotli.compressor.v3.Brotli";
const GUNZIP: &str = "envoy.extensions.compression.gzip.decompressor.v3.Gzip";
const UNBROTLI: &str = "envoy.extensions.compression.brotli.decompressor.v3.Brotli";

/// Content types where none are given.
const TYPES: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];

/// `envoy.extensions.filters.http.compressor.v3.Compressor`.
#[derive(Debug, Deserialize)]
struct Compressor {
    compressor_library: Library,
    request_direction_config: Option<RequestCompression>,
    response_direction_config: Option<ResponseCompression>,
    #[serde(default)]
    choose_first: bool,
}

/// `envoy.config.core.v3.TypedExtensionConfig` whose name counts.
#[derive(Debug, Deserialize)]
#[serde(rename = "CompressionLibrary")]
struct Library {
    name: String,
    typed_config: Subtree,
}

/// `Compressor.RequestDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CompressorRequestDirection")]
struct RequestCompression {
    common_config: CompressorDirection,
}

/// `Compressor.ResponseDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CompressorResponseDirection")]
struct ResponseCompression {
    common_config: CompressorDirection,
    disable_on_etag_header: bool,
    weaken_etag_on_compress: bool,
    remove_accept_encoding_header: bool,
    uncompressible_response_codes: Vec<Located<u16>>,
}

/// `Compressor.CommonDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompressorDirection {
    enabled: Option<RuntimeFeatureFlag>,
    min_content_length: Option<u32>,
    content_type: Vec<String>,
    content_type_matcher: Vec<StringMatcher>,
}

/// `envoy.config.core.v3.RuntimeFeatureFlag`.
#[derive(Debug, Deserialize)]
struct RuntimeFeatureFlag {
    default_value: bool,
}

/// `envoy.extensions.filters.http.compressor.v3.CompressorPerRoute`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompressorPerRoute {
    disabled: Option<bool>,
    overrides: Option<CompressorOverrides>,
}

/// `envoy.extensions.filters.http.compressor.v3.CompressorOverrides`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompressorOverrides {
    response_direction_config: Option<ResponseDirectionOverrides>,
}

/// `envoy.extensions.filters.http.compressor.v3.ResponseDirectionOverrides`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponseDirectionOverrides {
    remove_accept_encoding_header: Option<bool>,
}

/// `envoy.extensions.filters.http.decompressor.v3.Decompressor`.
#[derive(Debug, Deserialize)]
struct Decompressor {
    decompressor_library: Library,
    #[serde(default)]
    request_direction_config: RequestDecompression,
    #[serde(default)]
    response_direction_config: ResponseDecompression,
}

/// `Decompressor.RequestDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "DecompressorRequestDirection")]
struct RequestDecompression {
    common_config: DecompressorDirection,
    advertise_accept_encoding: Option<bool>,
}

/// `Decompressor.ResponseDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "DecompressorResponseDirection")]
struct ResponseDecompression {
    common_config: DecompressorDirection,
}

/// `Decompressor.CommonDirectionConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DecompressorDirection {
    enabled: Option<RuntimeFeatureFlag>,
    ignore_no_transform_header: bool,
}

/// `envoy.extensions.compression.gzip.compressor.v3.Gzip`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "GzipCompressor")]
struct Gzip {
    compression_level: Enum<Level>,
}

#[derive(Clone, Copy, Debug)]
struct Level(u32);

impl Default for Level {
    fn default() -> Self {
        Self(6)
    }
}

impl ProtoEnum for Level {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("DEFAULT_COMPRESSION", 0, Ok(Self(6))),
        ("BEST_SPEED", 1, Ok(Self(1))),
        ("COMPRESSION_LEVEL_1", 1, Ok(Self(1))),
        ("COMPRESSION_LEVEL_2", 2, Ok(Self(2))),
        ("COMPRESSION_LEVEL_3", 3, Ok(Self(3))),
        ("COMPRESSION_LEVEL_4", 4, Ok(Self(4))),
        ("COMPRESSION_LEVEL_5", 5, Ok(Self(5))),
        ("COMPRESSION_LEVEL_6", 6, Ok(Self(6))),
        ("COMPRESSION_LEVEL_7", 7, Ok(Self(7))),
        ("COMPRESSION_LEVEL_8", 8, Ok(Self(8))),
        ("COMPRESSION_LEVEL_9", 9, Ok(Self(9))),
        ("BEST_COMPRESSION", 9, Ok(Self(9))),
    ];
}

/// `envoy.extensions.compression.brotli.compressor.v3.Brotli`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "BrotliCompressor")]
struct Brotli {
    quality: Option<Located<u32>>,
    window_bits: Option<Located<u32>>,
}

/// The libraries of a decompressor, which are alike.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "DecompressionLibrary")]
struct Inflater {
    max_inflate_ratio: Option<Located<u32>>,
}

impl RuntimeFeatureFlag {
    fn is_on(flag: Option<&Self>) -> bool {
        flag.is_none_or(|flag| flag.default_value)
    }
}

impl CompressorDirection {
    fn is_on(&self) -> bool {
        RuntimeFeatureFlag::is_on(self.enabled.as_ref())
    }

    fn build(&self) -> Compressible {
        let plain = |name: &str| StringMatcher::exact(name).ignore_case();
        Compressible {
            min_length: self.min_content_length.unwrap_or(30).into(),
            content_types: match (self.content_type_matcher.as_slice(), &*self.content_type) {
                ([], []) => TYPES.iter().copied().map(plain).collect(),
                ([], types) => types.iter().map(|name| plain(name)).collect(),
                (matchers, _) => matchers.to_vec(),
            },
        }
    }
}

impl DecompressorDirection {
    fn build(&self) -> Option<Decompressible> {
        RuntimeFeatureFlag::is_on(self.enabled.as_ref()).then_some(Decompressible {
            ignore_no_transform: self.ignore_no_transform_header,
        })
    }
}

/// A number that is in its range, or not given.
fn within(given: Option<&Located<u32>>, low: u32, high: u32, default: u32) -> Result<u32, Fault> {
    match given {
        None => Ok(default),
        Some(number) if (low..=high).contains(&number.value) => Ok(number.value),
        Some(number) => Err(Fault::at(
            number.node,
            format!("has to be from {low} to {high}"),
        )),
    }
}

fn coding(reader: &Reader<'_>, node: NodeId) -> Result<Coding, Fault> {
    match reader.type_of(node)? {
        GZIP => {
            let gzip: Gzip = reader.read_typed(node)?;
            Ok(Coding::Gzip {
                level: gzip.compression_level.0.0,
            })
        }
        BROTLI => {
            let brotli: Brotli = reader.read_typed(node)?;
            Ok(Coding::Brotli {
                quality: within(brotli.quality.as_ref(), 0, 11, 3)?,
                window: within(brotli.window_bits.as_ref(), 10, 24, 18)?,
            })
        }
        other => Err(unsupported(node, other, &[GZIP, BROTLI])),
    }
}

impl Making<'_, '_> {
    /// The filter `Compressor` at `node`.
    pub(super) fn compressor(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let config: Compressor = self.reader.read_typed(node)?;
        let library = &config.compressor_library;
        let responses = config.response_direction_config.unwrap_or_default();
        let mut uncompressible = Vec::new();
        for code in &responses.uncompressible_response_codes {
            let status = StatusCode::from_u16(code.value).ok();
            let status = status.filter(|status| (200..600).contains(&status.as_u16()));
            uncompressible.push(
                status.ok_or_else(|| Fault::at(code.node, "has to be a status from 200 to 599"))?,
            );
        }
        let requests = config.request_direction_config;
        Ok(FilterKind::Compressor(Arc::new(CompressorModel {
            coding: coding(self.reader, library.typed_config.node)?,
            requests: requests
                .map(|config| config.common_config)
                .filter(CompressorDirection::is_on)
                .map(|config| config.build()),
            responses: responses.common_config.build(),
            is_on: responses.common_config.is_on(),
            etag: match (
                responses.weaken_etag_on_compress,
                responses.disable_on_etag_header,
            ) {
                (true, _) => Etag::Weakened,
                (false, true) => Etag::Prevents,
                (false, false) => Etag::Removed,
            },
            remove_accept_encoding: responses.remove_accept_encoding_header,
            uncompressible,
            choose_first: config.choose_first,
        })))
    }

    /// A route's word on a compressor, which is one of `kinds`; `None` is that it is off.
    pub(super) fn compressor_per_route(
        &self,
        node: NodeId,
        kinds: &[&FilterKind],
    ) -> Result<Option<FilterKind>, Fault> {
        let config: CompressorPerRoute = self.reader.read_typed(node)?;
        let overrides = match (config.disabled, config.overrides) {
            (Some(true), None) => return Ok(None),
            (None, Some(overrides)) => overrides,
            _ => {
                return Err(Fault::at(
                    node,
                    "one and only one of disabled, which has to be true, and overrides has to be set",
                ));
            }
        };
        let own = kinds.iter().find_map(|kind| match kind {
            FilterKind::Compressor(own) => Some(own),
            _ => None,
        });
        let Some(own) = own else {
            return match kinds {
                [] => Ok(None),
                _ => Err(Fault::at(
                    node,
                    "is the configuration of another filter than the one of this name",
                )),
            };
        };
        let mut own = CompressorModel::clone(own);
        if let Some(responses) = overrides.response_direction_config {
            own.is_on = true;
            own.remove_accept_encoding = responses
                .remove_accept_encoding_header
                .unwrap_or(own.remove_accept_encoding);
        }
        Ok(Some(FilterKind::Compressor(Arc::new(own))))
    }

    /// The filter `Decompressor` at `node`.
    pub(super) fn decompressor(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let config: Decompressor = self.reader.read_typed(node)?;
        let library = config.decompressor_library;
        let node = library.typed_config.node;
        let coding = match self.reader.type_of(node)? {
            GUNZIP => Decoding::Gzip,
            UNBROTLI => Decoding::Brotli,
            other => return Err(unsupported(node, other, &[GUNZIP, UNBROTLI])),
        };
        let inflater: Inflater = self.reader.read_typed(node)?;
        let requests = &config.request_direction_config;
        Ok(FilterKind::Decompressor(Arc::new(DecompressorModel {
            coding,
            library: library.name,
            requests: requests.common_config.build(),
            responses: config.response_direction_config.common_config.build(),
            advertise: requests.advertise_accept_encoding.unwrap_or(true),
            max_ratio: within(inflater.max_inflate_ratio.as_ref(), 1, 1032, 100)?,
        })))
    }
}
