//! Host names with a wildcard as their first label.

use std::cmp::Ordering;

/// A host name pattern, lower case: everything, `*.suffix` or one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hostname {
    Any,
    /// The suffix with its dot.
    Suffix(String),
    Exact(String),
}

impl Hostname {
    pub(super) fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            _ if text.is_empty() || text == "*" => Self::Any,
            Some(suffix) => Self::Suffix(suffix.to_owned()),
            None => Self::Exact(text),
        }
    }

    pub(super) fn of(text: Option<&str>) -> Self {
        text.map_or(Self::Any, Self::parse)
    }

    /// The form that virtual hosts and server names use.
    pub(super) fn domain(&self) -> String {
        match self {
            Self::Any => "*".into(),
            Self::Suffix(suffix) => format!("*{suffix}"),
            Self::Exact(name) => name.clone(),
        }
    }

    /// Returns whether every name of `other` is one of this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(suffix), Self::Suffix(name)) => name.ends_with(suffix.as_str()),
            (Self::Suffix(suffix), Self::Exact(name)) => {
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            (Self::Exact(name), Self::Exact(other)) => name == other,
            _ => false,
        }
    }

    /// The names that both have.
    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// The more specific of two that have names in common is the greater: a name above a wildcard,
    /// then the longer one.
    pub(super) fn specificity(&self, other: &Self) -> Ordering {
        let rank = |hostname: &Self| match hostname {
            Self::Any => (0, 0),
            Self::Suffix(suffix) => (1, suffix.len()),
            Self::Exact(name) => (2, name.len()),
        };
        rank(self).cmp(&rank(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersections() {
        for (one, other, both) in [
            ("*", "a.example", Some("a.example")),
            ("*.example", "a.example", Some("a.example")),
            ("*.example", "a.b.example", Some("a.b.example")),
            ("*.example", "example", None),
            ("*.example", "*.b.example", Some("*.b.example")),
            ("*.example", "*.bexample", None),
            ("a.example", "A.EXAMPLE", Some("a.example")),
            ("a.example", "b.example", None),
            ("*.a.example", "*.b.example", None),
        ] {
            let (one, other) = (Hostname::parse(one), Hostname::parse(other));
            let both = both.map(Hostname::parse);
            assert_eq!(one.intersection(&other), both, "{one:?} {other:?}");
            assert_eq!(other.intersection(&one), both, "{other:?} {one:?}");
        }
    }

    #[test]
    fn names_are_more_specific_than_wildcards() {
        let mut all = ["*", "a.example", "*.example", "*.b.example"].map(Hostname::parse);
        all.sort_by(Hostname::specificity);
        let all: Vec<String> = all.iter().map(Hostname::domain).collect();
        assert_eq!(all, ["*", "*.example", "*.b.example", "a.example"]);
    }
}
