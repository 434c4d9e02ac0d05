//! The controller role: keeps a data plane for each Gateway of our classes, and writes statuses.
//!
//! Every replica watches, one of them writes. What it does follows from the state that it sees, never
//! from an event alone, so that a restart, a lost watch or a change of the leader need no care.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use gateway_config::{
    manifests::{Objects, Scope, Serve, Translator, types},
    snapshot::Snapshot,
};
use gateway_proxy::{Gateway, Options};
use kube::Client;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    certificates,
    keeper::{self, KeepError, Keeper},
    kinds::Kind,
    lease::Elector,
    mirror::{Interest, Keep, Key, Mirror, Watch, changed},
    owned,
    signals::Signals,
    status::{self, Workload},
};
/// Kinds that are read, all over the cluster, beside those that are kept.
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
/// The name of the Lease.
const LEASE: &str = "extproc-gateway-controller";
/// Until what did not work is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Settings of the role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// The name of this replica in the Lease.
    pub identity: String,
    /// The server for `/ready` and `/stats`.
    pub admin: SocketAddr,
    /// Settings that all data planes have in common.
    pub data_plane: owned::Settings,
}

/// Runs until a signal.
///
/// # Errors
/// The admin server cannot listen.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    signals: &mut Signals,
) -> Result<(), String> {
    let mirror = Mirror::new(client.clone(), Keep::Raw);
    let _watches = watches(&mirror);
    let mut changes = mirror.changes();
    loop {
        if mirror.settled() {
            break;
        }
        tokio::select! {
            () = changed(&mut changes) => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => {
                tracing::info!(awaited = ?mirror.awaited(), "waiting for the API server");
            }
            () = signals.recv() => return Ok(()),
        }
    }
    // A gateway without listeners: its admin server alone.
    let admin = Snapshot {
        admin: Some(settings.admin),
        ..Snapshot::default()
    };
    let admin = Gateway::start(admin, Options::default().concurrency(1))
        .map_err(|error| error.to_string())?;
    tracing::info!(address = %settings.admin, "admin server");

    let leading = watch::Sender::new(false);
    let mut led = leading.subscribe();
    let elector = Elector::new(
        &client,
        &settings.namespace,
        LEASE,
        settings.identity.clone(),
    );
    let election = tokio::spawn(elector.run(leading));
    let mut controller = Controller {
        translator: Translator::default(),
        keeper: Keeper::new(client.clone()),
        client,
        mirror,
        settings: settings.data_plane,
    };
    let mut retry = false;
    loop {
        tokio::select! {
            () = changed(&mut changes) => {}
            () = tokio::time::sleep(RETRY), if retry => {}
            result = led.changed() => {
                if result.is_err() {
                    return Err("the election has ended".into());
                }
                controller.keeper.forget();
            }
            () = signals.recv() => break,
        }
        if !*led.borrow_and_update() {
            continue;
        }
        retry = tokio::select! {
            done = controller.reconcile() => !done,
            // Whoever leads now does the rest.
            _ = led.wait_for(|leads| !leads) => false,
            () = signals.recv() => break,
        };
    }
    drop(led);
    let _ = election.await;
    admin.shutdown();
    Ok(())
}

fn watches(mirror: &Mirror) -> Vec<Watch> {
    let kept = keeper::WATCHED.iter();
    let kept = kept.map(|kind| Interest::labelled(*kind, &keeper::label_selector()));
    let certificates = Interest::of_fields(Kind::Secret, "type=kubernetes.io/tls");
    let read = KINDS.iter().map(|kind| Interest::all(*kind));
    read.chain(kept)
        .chain([certificates])
        .map(|interest| mirror.watch(interest))
        .collect()
}

struct Controller {
    client: Client,
    translator: Translator,
    mirror: Mirror,
    keeper: Keeper,
    settings: owned::Settings,
}

impl Controller {
    /// Brings the cluster nearer to what it should be. Says whether nothing is left to try again.
    async fn reconcile(&mut self) -> bool {
        let read = self.mirror.typed();
        let objects = self.mirror.objects();
        let mut scope = Scope::new(Serve::Each);
        scope.admin_port = Some(owned::ADMIN_PORT);
        let statuses = self.translator.translate(&read, &scope).statuses;
        let mut done = true;
        let mut wanted = BTreeSet::new();
        let mut workloads = BTreeMap::new();
        for name in statuses.gateways.keys() {
            let mut workload = self.workload(name);
            match self.keep(name, &read, &mut wanted).await {
                Ok(()) => {}
                Err(error @ KeepError::Foreign(_)) => workload.problem = Some(error.to_string()),
                Err(error) => {
                    tracing::warn!(gateway = %name, %error, "cannot keep the data plane; trying again");
                    done = false;
                }
            }
            workloads.insert(name.clone(), workload);
        }
        if let Err(error) = self.keeper.sweep(&objects, &wanted).await {
            tracing::warn!(%error, "cannot remove; trying again");
            done = false;
        }
        let statuses = status::desired(&statuses, &workloads, &objects);
        self.write(statuses).await && done
    }

    fn workload(&self, gateway: &types::Key) -> Workload {
        let get = |kind| {
            let key = Key::new(kind, &gateway.namespace, &gateway.name);
            self.mirror.get(&key)
        };
        Workload::new(
            get(Kind::Service).as_deref(),
            get(Kind::Deployment).as_deref(),
        )
    }

    /// Keeps what belongs to one Gateway.
    async fn keep(
        &mut self,
        name: &types::Key,
        read: &Objects,
        wanted: &mut BTreeSet<Key>,
    ) -> Result<(), KeepError> {
        let key = Key::new(Kind::Gateway, &name.namespace, &name.name);
        let (Some(gateway), Some(object)) =
            (read.get::<types::Gateway>(name), self.mirror.get(&key))
        else {
            return Ok(());
        };
        let secrets = certificates::permitted(gateway, read);
        let desired: BTreeMap<Key, Value> = owned::desired(&object, &secrets, &self.settings);
        wanted.extend(desired.keys().cloned());
        if gateway.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        for (key, desired) in &desired {
            self.keeper.keep(&self.mirror, key, desired).await?;
        }
        Ok(())
    }

    async fn write(&self, statuses: Vec<(Key, Value)>) -> bool {
        /// Requests at a time.
        const CONCURRENCY: usize = 8;
        let writes = statuses.iter().map(|(key, desired)| async move {
            match status::write(&self.client, &self.mirror, key, desired).await {
                Ok(_) => true,
                Err(error) => {
                    tracing::warn!(object = %key, %error, "cannot write the status; trying again");
                    false
                }
            }
        });
        let written = stream::iter(writes).buffer_unordered(CONCURRENCY);
        written
            .fold(true, |all, one| async move { all && one })
            .await
    }
}
