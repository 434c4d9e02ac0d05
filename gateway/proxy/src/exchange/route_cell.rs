//! The route of an exchange as it is selected and cleared.

use crate::route::Selected;

/// The route of an exchange; without one if none takes the request.
///
/// ```text
/// Selected ──a filter clears it──▶ Cleared ──somebody asks for it──▶ Selected
/// ```
#[derive(Debug)]
pub(super) enum RouteCell {
    Selected(Option<Selected>),
    /// Keeps the one that was selected last.
    Cleared(Option<Selected>),
}

impl Default for RouteCell {
    fn default() -> Self {
        Self::Selected(None)
    }
}

impl RouteCell {
    /// The route that was selected last.
    pub(super) fn last(&self) -> Option<&Selected> {
        match self {
            Self::Selected(route) | Self::Cleared(route) => route.as_ref(),
        }
    }
}
