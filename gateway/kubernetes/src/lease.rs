//! One leader among the replicas of the controller, by a `Lease`.
//!
//! Clocks of different machines are not compared: a lease has run out when its record has not changed
//! for its whole duration by our own clock.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::kinds::Kind;

/// Time after which a silent leader is no longer one.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long steps back, well before another may step in.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between attempts to renew or to take over.
const PERIOD: Duration = Duration::from_secs(2);

/// Takes part in the election.
pub(super) struct Elector {
    api: Api<DynamicObject>,
    name: String,
    identity: String,
    seen: Option<Seen>,
}

/// The record as it was when it last changed.
struct Seen {
    record: Value,
    at: Instant,
}

impl Elector {
    pub(super) fn new(client: &Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Kind::Lease.api(client, Some(namespace)),
            name: name.into(),
            identity,
            seen: None,
        }
    }

    /// Tells through `leading` whether we lead; ends when nobody listens, and gives the lease back.
    pub(super) async fn run(mut self, leading: watch::Sender<bool>) {
        let mut renewed: Option<Instant> = None;
        loop {
            let attempt = tokio::time::timeout(PERIOD * 2, self.attempt());
            match attempt.await {
                Ok(Ok(true)) => renewed = Some(Instant::now()),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::debug!(%error, "cannot renew the lease"),
                Err(_) => tracing::debug!("cannot renew the lease in time"),
            }
            let leads = renewed.is_some_and(|at| at.elapsed() < GIVE_UP);
            leading.send_if_modified(|led| {
                if *led != leads {
                    tracing::info!(identity = self.identity, leads, "leader election");
                }
                std::mem::replace(led, leads) != leads
            });
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = leading.closed() => break,
            }
        }
        if renewed.is_some() {
            let release = json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
            let patch = Patch::Merge(&release);
            let parameters = PatchParams::default();
            let release = self.api.patch(&self.name, &parameters, &patch);
            if !matches!(tokio::time::timeout(PERIOD, release).await, Ok(Ok(_))) {
                tracing::debug!("the lease runs out by itself");
            }
        }
    }

    /// Tries to take or renew the lease; `true` if we hold it now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let now = Timestamp::now().to_string();
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let mut lease = DynamicObject::new(&self.name, &Kind::Lease.resource());
            lease.data = json!({"spec": self.record(&now, &now, 0)});
            let created = self.api.create(&PostParams::default(), &lease).await;
            return conflict_is_loss(created);
        };
        let record = lease.data.get("spec").cloned().unwrap_or_default();
        let holder = record["holderIdentity"].as_str().unwrap_or_default();
        let changes = record["leaseTransitions"].as_i64().unwrap_or_default();
        let spec = if holder == self.identity {
            let acquired = record["acquireTime"].as_str().unwrap_or(&now);
            self.record(acquired, &now, changes)
        } else if holder.is_empty() || self.ran_out(&record) {
            self.record(&now, &now, changes + 1)
        } else {
            return Ok(false);
        };
        // The resource version goes along: whoever wrote in between has won.
        lease.data = json!({"spec": spec});
        conflict_is_loss(
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await,
        )
    }

    fn record(&self, acquired: &str, renewed: &str, changes: i64) -> Value {
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": micro(acquired),
            "renewTime": micro(renewed),
            "leaseTransitions": changes,
        })
    }

    fn ran_out(&mut self, record: &Value) -> bool {
        match &self.seen {
            Some(seen) if seen.record == *record => seen.at.elapsed() >= DURATION,
            _ => {
                self.seen = Some(Seen {
                    record: record.clone(),
                    at: Instant::now(),
                });
                false
            }
        }
    }
}

/// A `MicroTime`: six digits behind the second.
fn micro(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => format!("{time:.6}"),
        Err(_) => time.into(),
    }
}

fn conflict_is_loss<T>(result: kube::Result<T>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_times_have_six_digits() {
        assert_eq!(micro("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05.000000Z");
        assert_eq!(
            micro("2026-01-02T03:04:05.123456789Z"),
            "2026-01-02T03:04:05.123456Z"
        );
    }
}
