//! `RequestMirrorPolicy`.

use serde::Deserialize;

use super::fraction::RuntimeFraction;
use crate::{
    document::{Fault, Located, NodeId},
    snapshot::{Fraction, Mirror},
};

/// `envoy.config.route.v3.RouteAction.RequestMirrorPolicy`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestMirrorPolicy {
    cluster: Located<String>,
    runtime_fraction: Option<RuntimeFraction>,
    #[serde(default)]
    disable_shadow_host_suffix_append: bool,
}

impl Located<RequestMirrorPolicy> {
    /// The mirror; `check` looks at the cluster's name.
    pub(super) fn build(
        &self,
        check: impl Fn(&str, NodeId) -> Result<(), Fault>,
    ) -> Result<Mirror, Fault> {
        let policy = &self.value;
        check(&policy.cluster.value, policy.cluster.node)?;
        let fraction = policy.runtime_fraction.as_ref();
        Ok(Mirror {
            cluster: policy.cluster.value.clone(),
            fraction: fraction.map_or(Fraction::ALL, RuntimeFraction::build),
            shadow_suffix: !policy.disable_shadow_host_suffix_append,
        })
    }
}
