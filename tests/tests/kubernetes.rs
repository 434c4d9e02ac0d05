//! The gateway's Kubernetes roles with a real API server and kubectl's own lines.
//!
//! One kube-apiserver with its etcd serves all tests here, one controller runs beside it. There are no nodes: the
//! tests run data planes themselves, and write the EndpointSlices that a cluster's controllers would write.
//!
//! The programs are not built for the sake of a run of all tests: `EXTPROC_KUBERNETES=1` does it, and where it has been
//! done the tests run always.

#[path = "kubernetes/changes.rs"]
mod changes;
#[path = "kubernetes/cluster.rs"]
mod cluster;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{LazyLock, Mutex};

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use tests::provision;
use tests::support::curl::{self, curl};
use tests::support::peers;
use tests::support::ports;
use tests::support::trial::outcome;
use tokio::runtime::Runtime;

use self::cluster::{Cluster, INSTALL, PATIENCE, condition, gateway, route, slice, until};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the API server, and one restarts it.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("definitions-are-generated", || go(definitions)),
        trial("bad-objects-are-refused", || go(bad_objects)),
        trial("guide", || go(guide)),
        trial("unknown-settings-fail-closed", || {
            go(changes::unknown_settings)
        }),
        trial("live-change", || go(changes::live_change)),
        trial("certificate-replaced", || go(changes::certificate)),
        trial("going-down", || go(changes::going_down)),
        trial("api-server-restart", || go(changes::restart)),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ends the programs; statics are not dropped.
    let cluster = CLUSTER.lock().ok().and_then(|mut cluster| cluster.take());
    let folder = cluster.map(|cluster| cluster.folder.clone());
    if let (Some(folder), false) = (folder, conclusion.has_failed()) {
        // What stays is of no use to anybody.
        let _ = std::fs::remove_dir_all(folder);
    }
    conclusion.exit_code()
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// Runs a test with the cluster, which the first one starts.
fn go(test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut cluster = CLUSTER
        .lock()
        .map_err(|_| anyhow::anyhow!("an earlier test panicked"))?;
    RUNTIME.block_on(async {
        if cluster.is_none() {
            *cluster = Some(Cluster::start().await?);
        }
        test(cluster.as_mut().context("no cluster")?).await
    })
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        let available = curl::available().map_err(anyhow::Error::new);
        outcome(available.and_then(|()| test()))
    })
}

// What is installed.

/// The manifest holds what the types say, and the API server has taken it.
async fn definitions(cluster: &mut Cluster) -> anyhow::Result<()> {
    let output = tokio::process::Command::new(&cluster.gateway)
        .arg("crds")
        .output()
        .await?;
    let generated = String::from_utf8(output.stdout)?;
    let installed = std::fs::read_to_string(INSTALL)?;
    ensure!(
        generated.contains("agentgatewaypolicies.agentgateway.dev"),
        "{generated}"
    );
    ensure!(
        installed.contains(&generated),
        "{INSTALL} does not hold what `gateway crds` prints"
    );
    let class = until("the class is accepted", PATIENCE, async || {
        let class = cluster.get("default", "gatewayclass/agentgateway").await?;
        ensure!(
            condition(&class, "/status/conditions", "Accepted") == "True",
            "{class}"
        );
        Ok(class)
    })
    .await?;
    let features = class["status"]["supportedFeatures"].as_array();
    ensure!(
        features.is_some_and(|features| !features.is_empty()),
        "{class}"
    );
    Ok(())
}

/// Each breaks one rule, which the answer names.
async fn bad_objects(cluster: &mut Cluster) -> anyhow::Result<()> {
    const GATEWAY: &str =
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]";
    const ROUTE: &str =
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]";
    let backend = "backendRef: {name: b, port: 1}";
    let cases = [
        (
            format!("traffic: {{extProc: {{{backend}}}}}"),
            "exactly one of targetRefs and targetSelectors",
        ),
        (GATEWAY.to_owned(), "at least one of traffic and frontend"),
        (
            format!("{GATEWAY}\n  traffic: {{extProc: {{}}}}"),
            "exactly one of backendRef and url",
        ),
        (
            format!("{GATEWAY}\n  traffic: {{extProc: {{{backend}, url: 'http://a'}}}}"),
            "exactly one of backendRef and url",
        ),
        (
            format!("{GATEWAY}\n  traffic: {{extProc: {{url: 'http://a/path'}}}}"),
            "spec.traffic.extProc.url",
        ),
        (
            format!("{GATEWAY}\n  traffic: {{extProc: {{backendRef: {{name: b}}}}}}"),
            "a Service needs a port",
        ),
        (
            format!("{ROUTE}\n  traffic: {{phase: PreRouting, extProc: {{{backend}}}}}"),
            "phase PreRouting needs",
        ),
        (
            format!(
                "{GATEWAY}\n  traffic: {{extProc: {{{backend}, processingOptions: {{requestBodyMode: Streamed}}}}}}"
            ),
            "Unsupported value",
        ),
        (
            format!(
                "{GATEWAY}\n  traffic: {{extProc: {{conditional: [{{policy: {{{backend}}}}}, {{condition: 'true', policy: {{{backend}}}}}]}}}}"
            ),
            "only the last entry of conditional",
        ),
        (
            format!(
                "{GATEWAY}\n  traffic: {{extProc: {{{backend}, conditional: [{{policy: {{{backend}}}}}]}}}}"
            ),
            "conditional allows no other field",
        ),
        (
            "targetRefs: [{group: '', kind: Service, name: s}]\n  traffic: {}".to_owned(),
            "traffic needs targets of kind",
        ),
        (
            format!("{ROUTE}\n  frontend: {{http: {{maxBufferSize: 1}}}}"),
            "frontend needs Gateways",
        ),
    ];
    for (spec, message) in cases {
        let manifest = format!(
            "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\nmetadata: {{name: bad}}\nspec:\n  {spec}\n"
        );
        match cluster.apply("bad", &manifest).await {
            Ok(_) => anyhow::bail!("accepted:\n{manifest}"),
            Err(error) => ensure!(
                format!("{error:#}").contains(message),
                "{error:#}\n{manifest}"
            ),
        }
    }
    Ok(())
}

// Traffic.

/// The guide's objects and its curl line; the programs run here instead of in pods.
async fn guide(cluster: &mut Cluster) -> anyhow::Result<()> {
    const NAMESPACE: &str = "agentgateway-system";
    let port = ports::free()?;
    let host = |port| SocketAddr::from((cluster.host, port));
    let httpbin = provision::workspace_example("httpbin")?;
    let httpbin = peers::start_at(host(ports::free()?), "httpbin", httpbin).await?;
    let processor = provision::workspace_binary("extproc-server", "extproc-server")?;
    let processor = peers::start_at(host(ports::free()?), "processor", processor).await?;
    cluster.kubectl(&["create", "namespace", "httpbin"]).await?;
    cluster
        .service("httpbin", "httpbin", httpbin.address)
        .await?;
    cluster
        .apply("gateway", &gateway(NAMESPACE, "agentgateway-proxy", port))
        .await?;
    cluster
        .apply(
            "route",
            &route("httpbin", "httpbin", "agentgateway-proxy", "httpbin", 8000),
        )
        .await?;
    let _data_plane = cluster
        .data_plane("agentgateway-system/agentgateway-proxy", port)
        .await?;

    let url = format!("http://127.0.0.1:{port}/headers");
    let instructions = r#"instructions: {"addHeaders":{"extproc":"true"}}"#;
    let line = [
        url.as_str(),
        "-H",
        "host: www.example.com",
        "-H",
        instructions,
    ];
    let headers = async || -> anyhow::Result<Value> {
        let answer = curl(&line).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.json()?["headers"].clone())
    };
    let plain = until("the route serves", PATIENCE, &headers).await?;
    ensure!(plain.get("Extproc").is_none(), "{plain}");

    // `kubectl apply` of the guide: the processor's Service, then the policy.
    let service = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: ext-proc-grpc
  labels:
    app: ext-proc-grpc
spec:
  ports:
  - port: 4444
    targetPort: 18080
    protocol: TCP
    appProtocol: kubernetes.io/h2c
  selector:
    app.kubernetes.io/name: ext-proc-grpc
---
{}",
        slice(NAMESPACE, "ext-proc-grpc", processor.address)
    );
    let file = cluster.folder.join("processor.yaml");
    std::fs::write(&file, service)?;
    let file = file.to_string_lossy().into_owned();
    cluster
        .kubectl(&["apply", "-n", NAMESPACE, "-f", &file])
        .await?;
    let policy = "apiVersion: agentgateway.dev/v1alpha1
kind: AgentgatewayPolicy
metadata:
  name: extproc
  namespace: agentgateway-system
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: agentgateway-proxy
  traffic: 
    extProc:
      backendRef: 
        name: ext-proc-grpc
        namespace: agentgateway-system
        port: 4444
";
    cluster.apply("policy", policy).await?;
    until("the policy is in force", PATIENCE, async || {
        let headers = headers().await?;
        ensure!(
            headers["Extproc"][0] == "true" || headers["Extproc"] == "true",
            "{headers}"
        );
        Ok(())
    })
    .await?;

    // What a person sees.
    until("statuses", PATIENCE, async || {
        let policy = cluster.get(NAMESPACE, "agentgatewaypolicy/extproc").await?;
        let conditions = "/status/ancestors/0/conditions";
        ensure!(
            condition(&policy, conditions, "Accepted") == "True",
            "{policy}"
        );
        ensure!(
            condition(&policy, conditions, "Attached") == "True",
            "{policy}"
        );
        let route = cluster.get("httpbin", "httproute/httpbin").await?;
        let conditions = "/status/parents/0/conditions";
        ensure!(
            condition(&route, conditions, "Accepted") == "True",
            "{route}"
        );
        ensure!(
            condition(&route, conditions, "ResolvedRefs") == "True",
            "{route}"
        );
        let gateway = cluster.get(NAMESPACE, "gateway/agentgateway-proxy").await?;
        ensure!(
            condition(&gateway, "/status/conditions", "Accepted") == "True",
            "{gateway}"
        );
        ensure!(
            gateway["status"]["listeners"][0]["attachedRoutes"] == 1,
            "{gateway}"
        );
        // No load balancer has given it an address.
        ensure!(
            condition(&gateway, "/status/conditions", "Programmed") == "False",
            "{gateway}"
        );
        Ok(())
    })
    .await?;
    let deployment = cluster
        .get(NAMESPACE, "deployment/agentgateway-proxy")
        .await?;
    ensure!(
        deployment["metadata"]["ownerReferences"][0]["kind"] == "Gateway",
        "{deployment}"
    );

    // The controller has come to rest: nothing is written any more.
    let version = async || -> anyhow::Result<Value> {
        let gateway = cluster.get(NAMESPACE, "gateway/agentgateway-proxy").await?;
        let route = cluster.get("httpbin", "httproute/httpbin").await?;
        Ok(json!([
            gateway["metadata"]["resourceVersion"],
            route["metadata"]["resourceVersion"]
        ]))
    };
    let before = version().await?;
    cluster
        .kubectl(&[
            "annotate",
            "-n",
            "httpbin",
            "service/httpbin",
            "touched=yes",
        ])
        .await?;
    cluster
        .kubectl(&["label", "namespace/httpbin", "touched=yes"])
        .await?;
    headers().await?;
    ensure!(
        version().await? == before,
        "statuses are written without a reason"
    );

    // Cleanup, as in the guide.
    cluster
        .kubectl(&["delete", "AgentgatewayPolicy", "extproc", "-n", NAMESPACE])
        .await?;
    cluster
        .kubectl(&["delete", "service", "ext-proc-grpc", "-n", NAMESPACE])
        .await?;
    until("the policy is gone", PATIENCE, async || {
        let headers = headers().await?;
        ensure!(headers.get("Extproc").is_none(), "{headers}");
        Ok(())
    })
    .await
}
