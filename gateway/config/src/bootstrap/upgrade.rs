//! `UpgradeConfig`.

use serde::Deserialize;

use super::value::Whatever;
use crate::document::{Fault, Located};

/// `envoy.config.route.v3.RouteAction.UpgradeConfig`, and that of `HttpConnectionManager`, which has
/// `filters` in place of `connect_config`.
#[derive(Debug, Deserialize)]
pub(super) struct UpgradeConfig {
    upgrade_type: String,
    enabled: Option<bool>,
    #[serde(default)]
    connect_config: Option<Located<Whatever>>,
}

/// Upgrade types and whether they may pass. They are compared without regard to case; the name of
/// the method CONNECT keeps its own.
pub(super) fn upgrades(configs: &[Located<UpgradeConfig>]) -> Result<Vec<(String, bool)>, Fault> {
    let mut upgrades: Vec<(String, bool)> = Vec::with_capacity(configs.len());
    for config in configs {
        let UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = &config.value;
        if let Some(connect) = connect_config {
            // Our end of a CONNECT would be a bare TCP connection to the endpoint.
            return Err(Fault::at(
                connect.node,
                "ending CONNECT here is not supported, it can only be forwarded",
            ));
        }
        let name = match upgrade_type.eq_ignore_ascii_case("CONNECT") {
            true => "CONNECT".into(),
            false => upgrade_type.to_ascii_lowercase(),
        };
        if upgrades.iter().any(|(known, _)| *known == name) {
            return Err(Fault::at(
                config.node,
                format!("the upgrade {upgrade_type:?} is given twice"),
            ));
        }
        upgrades.push((name, enabled.unwrap_or(true)));
    }
    Ok(upgrades)
}
