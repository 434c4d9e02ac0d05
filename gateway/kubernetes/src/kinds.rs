//! The kinds of objects that are read or written, as the API server names them.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::gvk::GroupVersionKind,
};

use gateway_config::manifests;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    GatewayClass,
    Gateway,
    HttpRoute,
    ReferenceGrant,
    AgentgatewayPolicy,
    AgentgatewayBackend,
    Namespace,
    Service,
    EndpointSlice,
    Secret,
    ServiceAccount,
    Role,
    RoleBinding,
    ClusterRoleBinding,
    // After the rights that its pods need.
    Deployment,
    Lease,
}

impl Kind {
    /// Group, version, kind, plural.
    const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        const GATEWAY_API: &str = "gateway.networking.k8s.io";
        const AGENTGATEWAY: &str = "agentgateway.dev";
        const RBAC: &str = "rbac.authorization.k8s.io";
        match self {
            Self::GatewayClass => (GATEWAY_API, "v1", "GatewayClass", "gatewayclasses"),
            Self::Gateway => (GATEWAY_API, "v1", "Gateway", "gateways"),
            Self::HttpRoute => (GATEWAY_API, "v1", "HTTPRoute", "httproutes"),
            Self::ReferenceGrant => (GATEWAY_API, "v1beta1", "ReferenceGrant", "referencegrants"),
            Self::AgentgatewayPolicy => (
                AGENTGATEWAY,
                "v1alpha1",
                "AgentgatewayPolicy",
                "agentgatewaypolicies",
            ),
            Self::AgentgatewayBackend => (
                AGENTGATEWAY,
                "v1alpha1",
                "AgentgatewayBackend",
                "agentgatewaybackends",
            ),
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::Role => (RBAC, "v1", "Role", "roles"),
            Self::RoleBinding => (RBAC, "v1", "RoleBinding", "rolebindings"),
            Self::ClusterRoleBinding => (RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
            Self::Lease => ("coordination.k8s.io", "v1", "Lease", "leases"),
        }
    }

    /// `GatewayClass`, `Gateway`, ...
    pub(super) const fn name(self) -> &'static str {
        self.names().2
    }

    /// `v1`, `apps/v1`, ...
    pub(super) fn api_version(self) -> String {
        self.resource().api_version
    }

    /// Returns whether objects of this kind live in namespaces.
    const fn namespaced(self) -> bool {
        !matches!(
            self,
            Self::GatewayClass | Self::Namespace | Self::ClusterRoleBinding
        )
    }

    /// The kind as translations know it, for those that they read.
    pub(super) fn manifest(self) -> Option<manifests::Kind> {
        let (group, _, kind, _) = self.names();
        manifests::Kind::of(group, kind)
    }

    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// Objects of this kind in one namespace, or in all; the namespace means nothing for kinds that
    /// have none.
    pub(super) fn api(self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = self.resource();
        match namespace {
            Some(namespace) if self.namespaced() => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}
