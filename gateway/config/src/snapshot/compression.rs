//! The filters `compressor` and `decompressor`.

use extproc_client::config::StringMatcher;
use http::StatusCode;

/// `envoy.extensions.filters.http.compressor.v3.Compressor`.
#[derive(Clone, Debug)]
pub struct Compressor {
    /// The coding that it makes.
    pub coding: Coding,
    /// Requests that it compresses; `None` for no requests.
    pub requests: Option<Compressible>,
    /// Responses that it compresses, where [`is_on`](Self::is_on).
    pub responses: Compressible,
    /// Responses are compressed.
    pub is_on: bool,
    /// Fate of an `etag`, and of the response that has one.
    pub etag: Etag,
    /// `remove_accept_encoding_header`: upstreams are not told what the client takes.
    pub remove_accept_encoding: bool,
    /// `uncompressible_response_codes`.
    pub uncompressible: Vec<StatusCode>,
    /// `choose_first`: of codings that the client likes the same, the first one of the chain.
    pub choose_first: bool,
}

impl Compressor {
    /// Returns the responses that it compresses, if there are any.
    pub fn for_responses(&self) -> Option<&Compressible> {
        self.is_on.then_some(&self.responses)
    }
}

/// `CommonDirectionConfig` of a compressor.
#[derive(Clone, Debug)]
pub struct Compressible {
    /// `min_content_length`, of messages that announce one.
    pub min_length: u64,
    /// One of these has to take the `content-type`, if there is one.
    pub content_types: Vec<StringMatcher>,
}

/// Fate of the `etag` of a response that could be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Etag {
    /// A strong one is taken off.
    #[default]
    Removed,
    /// `weaken_etag_on_compress`: a strong one becomes a weak one.
    Weakened,
    /// `disable_on_etag_header`: the response is left as it is.
    Prevents,
}

/// A content coding to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`.
    Gzip {
        /// 0 to 9.
        level: u32,
    },
    /// `br`.
    Brotli {
        /// 0 to 11.
        quality: u32,
        /// `window_bits`.
        window: u32,
    },
}

impl Coding {
    /// Returns the coding's name in `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => Decoding::Gzip.name(),
            Self::Brotli { .. } => Decoding::Brotli.name(),
        }
    }
}

/// A content coding to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Decoding {
    /// Returns the coding's name in `content-encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
        }
    }
}

/// `envoy.extensions.filters.http.decompressor.v3.Decompressor`.
#[derive(Clone, Debug)]
pub struct Decompressor {
    /// The coding that it undoes.
    pub coding: Decoding,
    /// The name of its library, which is in the trailers that tell the lengths.
    pub library: String,
    /// Requests that it decompresses; `None` for no requests.
    pub requests: Option<Decompressible>,
    /// Responses that it decompresses; `None` for no responses.
    pub responses: Option<Decompressible>,
    /// `advertise_accept_encoding`: tell upstreams of the coding.
    pub advertise: bool,
    /// `max_inflate_ratio`: a message that becomes larger than this many times its bytes is cut.
    pub max_ratio: u32,
}

/// `CommonDirectionConfig` of a decompressor.
#[derive(Clone, Copy, Debug)]
pub struct Decompressible {
    /// `ignore_no_transform_header`: also where `cache-control` says `no-transform`.
    pub ignore_no_transform: bool,
}
