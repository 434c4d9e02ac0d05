//! The data-plane role: serves one Gateway, as the API server has it.
//!
//! It begins to listen, and answers `/ready`, when all that it needs has been read once. From then on the
//! API server may come and go: traffic goes by the last state that was known.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gateway_config::{
    manifests::{Objects, Scope, Serve, Translator, types},
    snapshot::Snapshot,
};
use gateway_proxy::{Gateway, Options, Running};
use kube::Client;
use tokio::{sync::watch, time::Instant};

use super::{
    certificates,
    kinds::Kind,
    mirror::{Interest, Keep, Mirror, Watch, changed},
    signals::Signals,
};
/// Kinds that are read, all over the cluster. Secrets are read by name, as the Gateway needs them.
const KINDS: [Kind; 9] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::ReferenceGrant,
    Kind::AgentgatewayPolicy,
    Kind::AgentgatewayBackend,
    Kind::Namespace,
    Kind::Service,
    Kind::EndpointSlice,
];

/// Settings of the role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Gateway.
    pub gateway: types::Key,
    /// Address on which its listeners listen.
    pub listen: IpAddr,
    /// The admin server.
    pub admin: SocketAddr,
    /// Time in which connections are still accepted after a signal, while load balancers learn that we go.
    pub drain_delay: Duration,
    /// Worker threads and the like.
    pub options: Options,
}

/// Serves until a signal, then lets everything under way finish.
///
/// # Errors
/// The API server's address or credentials cannot be had, or the gateway cannot start.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    signals: &mut Signals,
) -> Result<(), String> {
    let mirror = Mirror::new(client, Keep::Names);
    let _watches: Vec<Watch> = KINDS
        .iter()
        .map(|kind| mirror.watch(Interest::all(*kind)))
        .collect();
    let mut scope = Scope::new(Serve::One(settings.gateway.clone()));
    scope.address = settings.listen;
    scope.admin_port = Some(settings.admin.port());
    let mut state = State {
        scope,
        translator: Translator::default(),
        secrets: BTreeMap::new(),
        served: None,
        mirror,
        settings,
    };
    let mut changes = state.mirror.changes();
    tokio::select! {
        () = state.settle(&mut changes) => {}
        () = signals.recv() => return Ok(()),
    }
    let running = state.start()?;
    let mut retry = false;
    loop {
        tokio::select! {
            () = changed(&mut changes) => {}
            () = tokio::time::sleep(RETRY), if retry => {}
            () = signals.recv() => break,
        }
        retry = !state.update(&running);
    }
    running.leave();
    tracing::info!(
        delay = ?state.settings.drain_delay,
        "still taking connections while others learn that this gateway goes"
    );
    let finish = async {
        tokio::time::sleep(state.settings.drain_delay).await;
        running.drain().await;
    };
    tokio::select! {
        () = finish => Ok(()),
        // Not even the threads are waited for.
        () = signals.recv() => std::process::exit(0),
    }
}

/// Until a configuration that could not be put in force is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest wait for a Gateway's new certificates, before it is served as far as it can be.
const CERTIFICATES: Duration = Duration::from_secs(10);

struct State {
    scope: Scope,
    translator: Translator,
    mirror: Mirror,
    /// The Secrets that are watched, and since when.
    secrets: BTreeMap<types::Key, (Watch, Instant)>,
    /// The Gateway as it was put in force.
    served: Option<Arc<types::Gateway>>,
    settings: Settings,
}

impl State {
    /// Ends when everything that the Gateway needs has been read once.
    async fn settle(&mut self, changes: &mut watch::Receiver<u64>) {
        const SAY: Duration = Duration::from_secs(10);
        loop {
            self.follow_secrets(self.gateway().as_deref());
            if self.mirror.settled() {
                return;
            }
            let change = changed(changes);
            if tokio::time::timeout(SAY, change).await.is_err() {
                tracing::info!(awaited = ?self.mirror.awaited(), "waiting for the API server");
            }
        }
    }

    fn gateway(&self) -> Option<Arc<types::Gateway>> {
        let objects = self.mirror.typed();
        objects.get(&self.settings.gateway).cloned()
    }

    /// Watches the Secrets that the Gateway names.
    fn follow_secrets(&mut self, gateway: Option<&types::Gateway>) {
        for key in gateway.map(certificates::named).unwrap_or_default() {
            self.secrets.entry(key).or_insert_with_key(|key| {
                let interest = Interest::one(Kind::Secret, &key.namespace, &key.name);
                (self.mirror.watch(interest), Instant::now())
            });
        }
    }

    /// Returns whether a Secret that the Gateway may have has not been read yet, and is worth waiting for. The controller
    /// gives the right to read it a moment after the Gateway names it.
    fn awaits_secrets(&self, gateway: &types::Gateway, objects: &Objects) -> bool {
        let permitted = certificates::permitted(gateway, objects);
        permitted.iter().any(|key| {
            let secret = self.secrets.get(key);
            secret.is_some_and(|(watch, since)| !watch.listed() && since.elapsed() < CERTIFICATES)
        })
    }

    /// Returns the snapshot to serve now, and tells whether it shows all that is known. While certificates are awaited that the
    /// Gateway has named a moment ago, the Gateway from before stays, with its own: listeners without a certificate would close.
    fn snapshot(&mut self) -> (Snapshot, bool) {
        let mut objects = self.mirror.typed();
        let gateway = objects
            .get::<types::Gateway>(&self.settings.gateway)
            .cloned();
        self.follow_secrets(gateway.as_deref());
        let awaits = gateway
            .as_ref()
            .is_some_and(|gateway| self.awaits_secrets(gateway, &objects));
        let before = self.served.as_deref().filter(|_| awaits);
        let whole = match before {
            Some(before) => {
                objects.insert(before.clone());
                false
            }
            None => {
                let wanted = gateway.as_deref().map(certificates::named);
                let wanted = wanted.unwrap_or_default();
                self.secrets.retain(|key, _| wanted.contains(key));
                self.served = gateway;
                true
            }
        };
        let translation = self.translator.translate(&objects, &self.scope);
        let mut snapshot = translation.snapshot;
        snapshot.admin = Some(self.settings.admin);
        (snapshot, whole)
    }

    fn start(&mut self) -> Result<Running, String> {
        let (snapshot, _) = self.snapshot();
        for warning in &snapshot.warnings {
            tracing::warn!("{warning}");
        }
        let running = Gateway::start(snapshot, self.settings.options.clone());
        let running = running.map_err(|error| error.to_string())?;
        tracing::info!(gateway = %self.settings.gateway, "serving");
        Ok(running)
    }

    /// Puts in force what is known now. Says whether nothing is left to try again.
    fn update(&mut self, running: &Running) -> bool {
        let (snapshot, whole) = self.snapshot();
        match running.update(snapshot) {
            Ok(()) => {
                tracing::debug!(whole, "configuration replaced");
                whole
            }
            Err(error) => {
                tracing::error!(%error, "the configuration before stays in force");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const A: [&str; 2] = [
        include_str!("../../tests/tls/a.pem"),
        include_str!("../../tests/tls/a.key"),
    ];
    const CLIENT: [&str; 2] = [
        include_str!("../../tests/tls/client.pem"),
        include_str!("../../tests/tls/client.key"),
    ];

    fn secret(name: &str, [chain, key]: [&str; 2]) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "n", "name": name},
            "stringData": {"tls.crt": chain, "tls.key": key},
        })
    }

    fn gateway(secret: &str) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"namespace": "n", "name": "g"},
            "spec": {"gatewayClassName": "c", "listeners": [
                {"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": secret}]}},
                {"name": "admin", "port": 15000, "protocol": "HTTP"},
            ]},
        })
    }

    /// A data plane whose Gateway names the Secret `a`, which is there.
    fn serving() -> (State, [Watch; 2]) {
        let mirror = Mirror::deaf(Keep::Names);
        let key = types::Key::new("n", "g");
        let mut scope = Scope::new(Serve::One(key.clone()));
        scope.admin_port = Some(15000);
        let classes = mirror.watch(Interest::all(Kind::GatewayClass));
        let gateways = mirror.watch(Interest::all(Kind::Gateway));
        let class = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "c"},
            "spec": {"controllerName": scope.controller},
        });
        mirror.list(&classes, Kind::GatewayClass, &[class]);
        mirror.list(&gateways, Kind::Gateway, &[gateway("a")]);
        let mut state = State {
            scope,
            translator: Translator::default(),
            secrets: BTreeMap::new(),
            served: None,
            settings: Settings {
                gateway: key,
                listen: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                admin: ([127, 0, 0, 1], 15000).into(),
                drain_delay: Duration::ZERO,
                options: Options::default(),
            },
            mirror,
        };
        state.follow_secrets(state.gateway().as_deref());
        tell(&state, "a", &[secret("a", A)]);
        let (snapshot, whole) = state.snapshot();
        assert!(whole);
        assert_eq!(chain(&snapshot).as_deref(), Some(A[0].as_bytes()));
        (state, [classes, gateways])
    }

    /// The list of a Secret is there.
    fn tell(state: &State, name: &str, objects: &[Value]) {
        let (watch, _) = &state.secrets[&types::Key::new("n", name)];
        state.mirror.list(watch, Kind::Secret, objects);
    }

    /// The certificate that the one listener has; the admin server's port gets none.
    fn chain(snapshot: &Snapshot) -> Option<Vec<u8>> {
        let chains = |listener: &Arc<gateway_config::snapshot::Listener>| {
            let tls = listener.all_chains().next()?.tls.clone()?;
            Some(tls.certificates.first()?.chain.clone())
        };
        assert!(snapshot.listeners.len() < 2, "{:?}", snapshot.listeners);
        snapshot.listeners.first().and_then(chains)
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_keeps_its_certificate_until_the_new_one_is_read() {
        let (mut state, [_classes, gateways]) = serving();
        state.mirror.list(&gateways, Kind::Gateway, &[gateway("b")]);
        let (snapshot, whole) = state.snapshot();
        assert_eq!(chain(&snapshot).as_deref(), Some(A[0].as_bytes()));
        assert!(!whole);
        // The right to read it is not there yet.
        let b = types::Key::new("n", "b");
        state.mirror.forbid(&state.secrets[&b].0);
        let (snapshot, whole) = state.snapshot();
        assert_eq!(chain(&snapshot).as_deref(), Some(A[0].as_bytes()));
        assert!(!whole);
        tell(&state, "b", &[secret("b", CLIENT)]);
        let (snapshot, whole) = state.snapshot();
        assert_eq!(chain(&snapshot).as_deref(), Some(CLIENT[0].as_bytes()));
        assert!(whole);
        assert_eq!(state.secrets.keys().collect::<Vec<_>>(), [&b]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_does_not_come_is_not_waited_for_long() {
        let (mut state, [_classes, gateways]) = serving();
        state.mirror.list(&gateways, Kind::Gateway, &[gateway("b")]);
        assert!(!state.snapshot().1);
        tokio::time::advance(CERTIFICATES).await;
        let (snapshot, whole) = state.snapshot();
        assert_eq!(chain(&snapshot), None);
        assert!(whole);
        // One that is not there at all is known not to be.
        let (mut state, [_classes, gateways]) = serving();
        state.mirror.list(&gateways, Kind::Gateway, &[gateway("b")]);
        assert!(!state.snapshot().1);
        tell(&state, "b", &[]);
        assert!(state.snapshot().1);
    }
}
