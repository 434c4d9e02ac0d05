//! The data-plane role: serves one Gateway, as the API server has it.
//!
//! It begins to listen, and answers `/ready`, when all that it needs has been read once. From then on the
//! API server may come and go: traffic goes by the last state that was known.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kube::Client;
use tokio::sync::watch;

use super::{
    certificates,
    kinds::Kind,
    mirror::{Interest, Keep, Mirror, Watch, changed},
    signals::Signals,
};
use crate::{
    Gateway, Options, Running,
    config::{
        manifests::{Scope, Serve, translate, types},
        snapshot::Snapshot,
    },
};

/// What is read, all over the cluster. Secrets are read by name, as the Gateway needs them.
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
pub(super) struct Settings {
    /// The Gateway.
    pub(super) gateway: types::Key,
    /// Where its listeners listen.
    pub(super) listen: IpAddr,
    /// The admin server.
    pub(super) admin: SocketAddr,
    /// How long connections are still taken after a signal, while others learn that we go.
    pub(super) drain_delay: Duration,
    /// Worker threads and the like.
    pub(super) options: Options,
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
    let mut state = State {
        scope,
        secrets: BTreeMap::new(),
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

struct State {
    scope: Scope,
    mirror: Mirror,
    secrets: BTreeMap<types::Key, Watch>,
    settings: Settings,
}

impl State {
    /// Ends when everything that the Gateway needs has been read once.
    async fn settle(&mut self, changes: &mut watch::Receiver<u64>) {
        const SAY: Duration = Duration::from_secs(10);
        loop {
            self.follow_secrets();
            if self.mirror.settled() {
                return;
            }
            let change = changed(changes);
            if tokio::time::timeout(SAY, change).await.is_err() {
                tracing::info!(awaited = ?self.mirror.awaited(), "waiting for the API server");
            }
        }
    }

    /// Watches the Secrets that the Gateway names, and no others.
    fn follow_secrets(&mut self) {
        let objects = self.mirror.typed();
        let gateway = objects.get::<types::Gateway>(&self.settings.gateway);
        let wanted = gateway.map(|gateway| certificates::named(gateway));
        let wanted = wanted.unwrap_or_default();
        self.secrets.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.secrets.entry(key).or_insert_with_key(|key| {
                let interest = Interest::one(Kind::Secret, &key.namespace, &key.name);
                self.mirror.watch(interest)
            });
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = translate(&self.mirror.typed(), &self.scope).snapshot;
        snapshot.admin = Some(self.settings.admin);
        snapshot
    }

    fn start(&self) -> Result<Running, String> {
        let snapshot = self.snapshot();
        for warning in &snapshot.warnings {
            tracing::warn!("{warning}");
        }
        let running = Gateway::start(snapshot, self.settings.options.clone());
        let running = running.map_err(|error| error.to_string())?;
        tracing::info!(gateway = %self.settings.gateway, "serving");
        Ok(running)
    }

    /// Puts in force what is known now. Says whether that worked.
    fn update(&mut self, running: &Running) -> bool {
        self.follow_secrets();
        match running.update(self.snapshot()) {
            Ok(()) => {
                tracing::debug!("configuration replaced");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the configuration before stays in force");
                false
            }
        }
    }
}
