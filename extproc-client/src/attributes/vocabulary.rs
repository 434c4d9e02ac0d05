//! Names of attributes in other languages than Envoy's.

/// Whose names an expression uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vocabulary {
    /// Envoy's: `request.path` has the query, `source.address` the port.
    #[default]
    Envoy,
    /// agentgateway's: `request.path` is the path alone, beside `request.pathAndQuery` and
    /// `request.uri`; `request.version` is the protocol; `source.address` and `destination.address`
    /// are without their ports.
    Agentgateway,
}

/// The whole URI. No expression can name it.
pub(super) const URI: &str = "@uri";
/// The address without its port. No expression can name it.
pub(super) const IP: &str = "@ip";

/// Agentgateway's names and those they have here.
const AGENTGATEWAY: &[(&str, &str, &str)] = &[
    ("request", "path", "url_path"),
    ("request", "pathAndQuery", "path"),
    ("request", "version", "protocol"),
    ("request", "uri", URI),
    ("source", "address", IP),
    ("destination", "address", IP),
];

impl Vocabulary {
    /// The name that a field of `root` has here, if that is another one.
    pub(super) fn rename(self, root: &str, field: &str) -> Option<&'static str> {
        let names = match self {
            Self::Envoy => return None,
            Self::Agentgateway => AGENTGATEWAY,
        };
        let known = names
            .iter()
            .find(|(of, name, _)| *of == root && *name == field);
        known.map(|(_, _, ours)| *ours)
    }
}
