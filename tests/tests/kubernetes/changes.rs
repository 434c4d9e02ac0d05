//! Changes while traffic runs: routes, policies, certificates, the data plane's end, the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, ensure};
use tests::support::curl::curl;
use tests::support::load::{Load, named};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::rig::get;

use super::cluster::{Cluster, PATIENCE, gateway, route, serve, until};

/// The server keeps what the definitions do not know, and nothing passes until that is gone.
pub(crate) async fn unknown_settings(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (port, load) = two_upstreams(cluster, "unknown").await?;
    let before = load.end().await?;
    ensure!(before.failures.is_empty(), "{before:?}");
    let policy = "apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata: {name: unknown, namespace: agentgateway-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: unknown}]
  traffic: {extAuth: {backendRef: {name: somebody, port: 1}}}
";
    cluster.apply("unknown", policy).await?;
    let url = format!("http://127.0.0.1:{port}/");
    let becomes = async |status: u16| {
        until("the policy's effect", PATIENCE, async || {
            let answer = curl(&[&url, "-H", "host: www.example.com"]).await?;
            ensure!(answer.status == status, "{answer:?}");
            Ok(())
        })
        .await
    };
    becomes(500).await?;
    until("the policy's status", PATIENCE, async || {
        let object = "agentgatewaypolicy/unknown";
        let policy = cluster.get("agentgateway-system", object).await?;
        let accepted = &policy["status"]["ancestors"][0]["conditions"][0];
        ensure!(accepted["reason"] == "Invalid", "{policy}");
        ensure!(
            accepted["message"] == "not supported: spec.traffic.extAuth",
            "{policy}"
        );
        Ok(())
    })
    .await?;
    let line = ["delete", "agpol", "unknown", "-n", "agentgateway-system"];
    cluster.kubectl(&line).await?;
    becomes(200).await
}

/// A change reaches traffic, and no request is lost on the way.
pub(crate) async fn live_change(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (port, load) = two_upstreams(cluster, "live").await?;
    for (service, times) in [("live-b", 1), ("live-a", 2), ("live-b", 3)] {
        cluster
            .apply("route", &route("default", "live", "live", service, 8000))
            .await?;
        let applied = Instant::now();
        let name = service.rsplit('-').next().context("no name")?;
        until("the change reaches traffic", PATIENCE, async || {
            let answer = curl(&[
                &format!("http://127.0.0.1:{port}/"),
                "-H",
                "host: www.example.com",
            ])
            .await?;
            ensure!(answer.text() == name, "{answer:?}");
            Ok(())
        })
        .await?;
        eprintln!(
            "change {times} reached traffic after {:?}",
            applied.elapsed()
        );
    }
    let tally = load.end().await?;
    ensure!(tally.failures.is_empty(), "{tally:?}");
    ensure!(tally.answers.len() == 2, "{tally:?}");
    Ok(())
}

/// A listener takes another Secret and serves all the while; an object that cannot be used is in nobody's way.
pub(crate) async fn certificate(cluster: &mut Cluster) -> anyhow::Result<()> {
    const NAMESPACE: &str = "agentgateway-system";
    let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/tests/tls");
    for (secret, pair) in [("first", "a"), ("second", "wildcard")] {
        let certificate = format!("--cert={tls}/{pair}.pem");
        let key = format!("--key={tls}/{pair}.key");
        let line = ["create", "secret", "tls", secret, "-n", NAMESPACE];
        let line: Vec<&str> = line.into_iter().chain([&*certificate, &*key]).collect();
        cluster.kubectl(&line).await?;
    }
    let port = ports::free()?;
    let gateway = |secret: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: secure, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: agentgateway
  listeners: [{{name: https, protocol: HTTPS, port: {port}, tls: {{certificateRefs: [{{name: {secret}}}]}}}}]
"
        )
    };
    cluster.apply("gateway", &gateway("first")).await?;
    let data_plane = cluster
        .data_plane(&format!("{NAMESPACE}/secure"), port)
        .await?;
    let backend = "apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayBackend
metadata: {name: nameless, namespace: agentgateway-system}
spec: {static: {host: a.example, port: 1}, policies: {tls: {sni: '*.x'}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: nameless, namespace: agentgateway-system}
spec:
  parentRefs: [{name: secure}]
  rules: [{backendRefs: [{group: agentgateway.dev, kind: AgentgatewayBackend, name: nameless}]}]
";
    cluster.apply("nameless", backend).await?;
    let address = format!("https://a.example:{port}/");
    let resolve = format!("a.example:{port}:127.0.0.1");
    let authority = format!("{tls}/ca.pem");
    let line = [&*address, "--resolve", &*resolve, "--cacert", &*authority];
    until("the route's refusal", PATIENCE, async || {
        let answer = curl(&line).await?;
        ensure!(answer.status == 500, "{answer:?}");
        Ok(())
    })
    .await?;
    cluster.apply("gateway", &gateway("second")).await?;
    until("the other certificate", PATIENCE, async || {
        ensure!(curl(&line).await.is_err(), "still the first one");
        Ok(())
    })
    .await?;
    let any = curl(&[&address, "--resolve", &resolve, "--insecure"]).await?;
    ensure!(any.status == 500, "{any:?}");
    let log = data_plane.log();
    ensure!(!log.contains("no longer listening"), "{log}");
    Ok(())
}

/// From the signal on the pod is not ready, and serves while others learn that.
pub(crate) async fn going_down(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (port, admin) = (ports::free()?, ports::free()?);
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let manifest = gateway("agentgateway-system", "leaving", port);
    cluster.apply("gateway", &manifest).await?;
    let process = Process::spawn_with(
        &cluster.gateway,
        [
            "--kubernetes=agentgateway-system/leaving",
            "--address=127.0.0.1",
            "--drain-delay=60",
            &format!("--admin={}", local(admin)),
        ],
        &[("KUBECONFIG", &cluster.kubeconfig())],
        &cluster.folder.join("leaving.log"),
    )?;
    let process = process.listening(local(port), PATIENCE).await?;
    ensure!(get(local(admin), "/ready").await?.0 == 200);
    let id = process.id().context("it has ended")?.to_string();
    let kill = tokio::process::Command::new("kill").arg(&id).status();
    ensure!(kill.await?.success());
    until("it is not ready", PATIENCE, async || {
        ensure!(get(local(admin), "/ready").await?.0 == 503);
        Ok(())
    })
    .await?;
    // No route takes it.
    ensure!(get(local(port), "/").await?.0 == 404);
    Ok(())
}

/// The API server dies and comes back: traffic goes on, and what has changed is caught up with.
pub(crate) async fn restart(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (port, load) = two_upstreams(cluster, "again").await?;
    if let Some(mut server) = cluster.server.take() {
        server.kill().await;
    }
    let url = format!("http://127.0.0.1:{port}/");
    let line = [url.as_str(), "-H", "host: www.example.com"];
    ensure!(curl(&line).await?.text() == "a");
    cluster.server = Some(serve(&cluster.parts, &cluster.folder, cluster.port).await?);
    cluster
        .apply(
            "route",
            &route("default", "again", "again", "again-b", 8000),
        )
        .await?;
    until("the change reaches traffic", PATIENCE, async || {
        let answer = curl(&line).await?;
        ensure!(answer.text() == "b", "{answer:?}");
        Ok(())
    })
    .await?;
    let tally = load.end().await?;
    ensure!(tally.failures.is_empty(), "{tally:?}");
    // The controller is back at work, too.
    until("statuses after the restart", PATIENCE, async || {
        let route = cluster.get("default", "httproute/again").await?;
        let parent = &route["status"]["parents"][0];
        let seen = parent["conditions"][0]["observedGeneration"].as_i64();
        ensure!(
            seen == route["metadata"]["generation"].as_i64() && seen > Some(1),
            "{route}"
        );
        Ok(())
    })
    .await
}

/// A Gateway of this name with a route to the first of two upstreams, which say `a` and `b`, under load.
async fn two_upstreams(cluster: &mut Cluster, name: &str) -> anyhow::Result<(u16, Load)> {
    let port = ports::free()?;
    for upstream in ["a", "b"] {
        let address = named((cluster.host, 0).into(), upstream).await?;
        cluster
            .service("default", &format!("{name}-{upstream}"), address)
            .await?;
    }
    cluster
        .apply("gateway", &gateway("agentgateway-system", name, port))
        .await?;
    cluster
        .apply(
            "route",
            &route("default", name, name, &format!("{name}-a"), 8000),
        )
        .await?;
    let data_plane = cluster
        .data_plane(&format!("agentgateway-system/{name}"), port)
        .await?;
    cluster.data_planes.push(data_plane);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("the route serves", PATIENCE, async || {
        let answer = curl(&[&format!("http://{address}/"), "-H", "host: www.example.com"]).await?;
        ensure!(answer.text() == "a", "{answer:?}");
        Ok(())
    })
    .await?;
    Ok((port, Load::start(address, "www.example.com", 4)))
}
