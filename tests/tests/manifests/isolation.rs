//! Teams that share a Gateway, and clients: what one of them does is no way around the processor of another, into what is not
//! theirs, or into another's time.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::provision;
use tests::support::curl::{Answer, curl};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::trial::flow;

use super::INSTRUCTIONS;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        flow("isolation/spellings-of-a-path", paths()),
        flow("isolation/spellings-of-a-host", hosts()),
        flow("isolation/hosts-of-other-listeners", misdirected()),
        flow("isolation/forwarded-fields", forwarded()),
        flow("isolation/other-namespaces", namespaces()),
        flow("isolation/local-backends", local_backends()),
        flow("isolation/expensive-conditions", conditions()),
        flow("isolation/large-regular-expressions", regular_expressions()),
        flow("isolation/slow-regular-expressions", slow_expressions()),
    ]
}

/// The objects of a case: a Gateway of `infra`, and what teams add to it.
struct Objects(Vec<Value>);

impl Objects {
    /// A Gateway with these listeners.
    fn behind(listeners: Value) -> Self {
        Self(vec![json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "g", "namespace": "infra"},
            "spec": {"gatewayClassName": "agentgateway", "listeners": listeners},
        })])
    }

    /// A Gateway for HTTP and the routes of all teams.
    fn http() -> Self {
        let all = json!({"namespaces": {"from": "All"}});
        Self::behind(json!([
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": all},
        ]))
    }

    fn annotated(mut self, name: &str, value: &str) -> Self {
        self.0[0]["metadata"]["annotations"] = json!({name: value});
        self
    }

    fn with(mut self, object: Value) -> Self {
        self.0.push(object);
        self
    }

    /// A team's application and the route to it.
    fn route(self, namespace: &str, name: &str, hostnames: &[&str], rules: Value) -> Self {
        self.with(service(namespace, "app"))
            .with(route(namespace, name, hostnames, rules))
    }

    /// The application of `infra`, for all hosts.
    fn app(self, rules: Value) -> Self {
        self.route("infra", "app", &[], rules)
    }

    /// The route of the team that a case is about, for `mine.example`.
    fn mine(self, rules: Value) -> Self {
        self.route("tenant", "mine", &["mine.example"], rules)
    }

    /// The route of another team, for `victim.example`.
    fn victim(self) -> Self {
        self.route("infra", "victim", &["victim.example"], everything())
    }

    /// A team's processor and the policy that asks it.
    fn policy(self, namespace: &str, target: Value, ext_proc: Value) -> Self {
        self.with(service(namespace, "processor"))
            .with(policy(namespace, target, ext_proc))
    }

    async fn serve(&self, port: u16) -> anyhow::Result<Rig> {
        Rig::start(port, &self.0).await
    }
}

fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": 80}]},
    })
}

fn route(namespace: &str, name: &str, hostnames: &[&str], rules: Value) -> Value {
    let mut spec = json!({"parentRefs": [{"name": "g", "namespace": "infra"}], "rules": rules});
    if !hostnames.is_empty() {
        spec["hostnames"] = json!(hostnames);
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

/// The rule that leads everything to the application.
fn everything() -> Value {
    json!([{"backendRefs": to("app")}])
}

fn policy(namespace: &str, target: Value, ext_proc: Value) -> Value {
    json!({
        "apiVersion": "agentgateway.dev/v1alpha1", "kind": "AgentgatewayPolicy",
        "metadata": {"name": "policy", "namespace": namespace},
        "spec": {"targetRefs": [target], "traffic": {"extProc": ext_proc}},
    })
}

fn target(kind: &str, name: &str, section: Option<&str>) -> Value {
    let mut target = json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    if let Some(section) = section {
        target["sectionName"] = section.into();
    }
    target
}

/// The processor of a policy.
fn processor() -> Value {
    json!({"backendRef": {"name": "processor", "port": 80}})
}

/// httpbin, the sample processor, and the gateway in front of them, which knows them as the services `app` and `processor`.
struct Rig {
    gateway: Peer,
    _httpbin: Peer,
    _processor: Peer,
}

impl Rig {
    async fn start(port: u16, objects: &[Value]) -> anyhow::Result<Self> {
        let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
        let processor = peers::sample_processor().await?;
        let program = provision::workspace_binary("gateway", "gateway")?;
        let file = peers::log_file("isolation", ports::free()?).with_extension("yaml");
        std::fs::create_dir_all(file.parent().context("no folder")?)?;
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&file, documents.join("\n---\n"))?;
        let arguments = |at: SocketAddr| {
            let mut arguments = vec![
                "--config".to_owned(),
                file.display().to_string(),
                "--concurrency=1".into(),
                format!("--listen-port={port}={}", at.port()),
            ];
            for service in objects.iter().filter(|object| object["kind"] == "Service") {
                let metadata = &service["metadata"];
                let (Some(namespace), Some(name)) =
                    (metadata["namespace"].as_str(), metadata["name"].as_str())
                else {
                    continue;
                };
                let address = match name {
                    "processor" => processor.address,
                    _ => httpbin.address,
                };
                arguments.push(format!("--endpoints={namespace}/{name}:80={address}"));
            }
            arguments
        };
        let gateway = peers::start("gateway-isolation", program, arguments, &[]).await?;
        Ok(Self {
            gateway,
            _httpbin: httpbin,
            _processor: processor,
        })
    }

    async fn get(&self, host: &str, path: &str, more: &[&str]) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.gateway.url());
        let host = format!("host: {host}");
        let mut arguments = vec!["--path-as-is", &url, "-H", &host, "-H", INSTRUCTIONS];
        arguments.extend(more);
        curl(&arguments).await
    }
}

/// Tells if the processor was asked: it adds a header on its way to httpbin, which shows it.
fn processed(answer: &Answer) -> anyhow::Result<bool> {
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.json()?["headers"].get("Extproc").is_some())
}

/// A rule's processor sees its paths however they are spelled, and the upstream gets what was looked at.
async fn paths() -> anyhow::Result<()> {
    let prefix = json!([{"path": {"type": "PathPrefix", "value": "/anything/admin"}}]);
    let rules = json!([
        {"name": "admin", "matches": prefix, "backendRefs": to("app")},
        {"backendRefs": to("app")},
    ]);
    let admin = target("HTTPRoute", "app", Some("admin"));
    let rig = Objects::http()
        .app(rules)
        .policy("infra", admin, processor())
        .serve(80)
        .await?;
    for path in [
        "/anything/admin/x",
        "//anything/admin/x",
        "/anything//admin/x",
        "/./anything/admin/x",
        "/a/../anything/admin/x",
        "/a/%2e%2E/anything/admin/x",
        "/%61nything/%61dmin/x",
        "/;a/../anything/admin/x",
        "/anything\\admin/x",
        // Servers that read parameters of a segment take these for `..` and `.`.
        "/a/..;/anything/admin/x",
        "/a/..;x=y/anything/admin/x",
        "/a/%2e%2E;/anything/admin/x",
        "/a\\..;\\anything\\admin/x",
        "/anything/.;/admin/x",
    ] {
        let answer = rig.get("a.example", path, &[]).await?;
        ensure!(processed(&answer)?, "{path}: {answer:?}");
        let url = answer.json()?["url"].clone();
        let url = url.as_str().context("no url")?;
        ensure!(url.ends_with("/anything/admin/x"), "{path} became {url}");
    }
    for path in [
        "/anything%2fadmin/x",
        "/anything%5Cadmin/x",
        "/a/..%2Fanything/admin/x",
        // Servers that decode more than once, or more than they should.
        "/a/%252e%252e/anything/admin/x",
        "/a/..%252fanything/admin/x",
        "/a/%2%65%2%65/anything/admin/x",
        "/a/..%3B/anything/admin/x",
        "/a/..%20/anything/admin/x",
        "/a/%c0%ae%c0%ae/anything/admin/x",
        "/a/%u002e%u002e/anything/admin/x",
        "/anything/admin%00",
        "/anything/x%00/../admin/x",
    ] {
        let answer = rig.get("a.example", path, &[]).await?;
        ensure!(answer.status == 400, "{path}: {answer:?}");
    }
    for path in [
        "/anything/other",
        "/anything/ADMIN/x",
        "/anything/administrators",
    ] {
        let answer = rig.get("a.example", path, &[]).await?;
        ensure!(!processed(&answer)?, "{path}: {answer:?}");
    }
    Ok(())
}

/// A listener's processor sees requests for its host however that is spelled.
async fn hosts() -> anyhow::Result<()> {
    let listeners = json!([
        {"name": "public", "port": 80, "protocol": "HTTP"},
        {"name": "secure", "port": 80, "protocol": "HTTP", "hostname": "secure.example"},
    ]);
    let secure = target("Gateway", "g", Some("secure"));
    let rig = Objects::behind(listeners)
        .app(everything())
        .policy("infra", secure, processor())
        .serve(80)
        .await?;
    for host in [
        "secure.example",
        "SECURE.example",
        "secure.example:80",
        "secure.example:99",
        "secure.example.",
        "Secure.Example.:80",
    ] {
        let answer = rig.get(host, "/headers", &[]).await?;
        ensure!(processed(&answer)?, "{host}: {answer:?}");
        let shown = answer.json()?["headers"]["Host"][0].clone();
        let shown = shown.as_str().context("no host")?;
        ensure!(
            !shown.contains(".:") && !shown.ends_with('.'),
            "{host} became {shown}"
        );
    }
    for host in [
        "secure.example..",
        ".",
        "secure%2eexample",
        "secure.example,b",
    ] {
        let answer = rig.get(host, "/headers", &[]).await?;
        ensure!(answer.status == 400, "{host}: {answer:?}");
    }
    let answer = rig.get("other.example", "/headers", &[]).await?;
    ensure!(!processed(&answer)?, "{answer:?}");
    Ok(())
}

/// A connection that was opened for one listener's host is no way to the host of another, in HTTP/1.1 and HTTP/2.
async fn misdirected() -> anyhow::Result<()> {
    let certificate = json!({"certificateRefs": [{"name": "cert"}]});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert", "namespace": "infra"},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": include_str!("../../../gateway/tests/tls/a.pem"),
            "tls.key": include_str!("../../../gateway/tests/tls/a.key"),
        },
    });
    let listeners = json!([
        {"name": "public", "port": 443, "protocol": "HTTPS", "tls": certificate},
        {"name": "secure", "port": 443, "protocol": "HTTPS", "hostname": "secure.example", "tls": certificate},
        {"name": "wild", "port": 443, "protocol": "HTTPS", "hostname": "*.wild.example", "tls": certificate},
    ]);
    let secure = target("Gateway", "g", Some("secure"));
    let rig = Objects::behind(listeners)
        .with(secret)
        .app(everything())
        .policy("infra", secure, processor())
        .serve(443)
        .await?;
    let port = rig.gateway.address.port();
    for version in ["--http1.1", "--http2"] {
        for (server_name, host, status, asked) in [
            ("secure.example", "secure.example", 200, true),
            ("public.example", "public.example", 200, false),
            ("public.example", "secure.example", 421, false),
            ("public.example", "secure.example.", 421, false),
            ("public.example", "SECURE.EXAMPLE", 421, false),
            ("public.example", "a.wild.example", 421, false),
            ("a.wild.example", "b.wild.example", 200, false),
            ("a.wild.example", "secure.example", 421, false),
            ("secure.example", "public.example", 421, false),
        ] {
            let url = format!("https://{server_name}:{port}/headers");
            let connect = format!("{server_name}:{port}:127.0.0.1:{port}");
            let host = format!("host: {host}");
            let arguments = [
                "-k",
                version,
                &url,
                "--connect-to",
                &connect,
                "-H",
                &host,
                "-H",
                INSTRUCTIONS,
            ];
            let answer = curl(&arguments).await?;
            ensure!(
                answer.status == status,
                "{server_name} {host} {version}: {answer:?}"
            );
            if status == 200 {
                ensure!(
                    processed(&answer)? == asked,
                    "{server_name} {host}: {answer:?}"
                );
            }
        }
        // Without a server name.
        let url = format!("https://127.0.0.1:{port}/headers");
        let answer = curl(&["-k", version, &url, "-H", "host: secure.example"]).await?;
        ensure!(answer.status == 421, "{answer:?}");
    }
    Ok(())
}

/// Clients say nothing of themselves that an upstream would believe, unless they are trusted proxies.
async fn forwarded() -> anyhow::Result<()> {
    let said = [
        "-H",
        "x-forwarded-for: 10.0.0.1",
        "-H",
        "x-forwarded-proto: https",
        "-H",
        "x-envoy-external-address: 10.0.0.1",
        "-H",
        "x-envoy-internal: true",
    ];
    for (hops, address, proto) in [("0", "127.0.0.1", "http"), ("1", "10.0.0.1", "https")] {
        let rig = Objects::http()
            .annotated("extproc.dev/xff-num-trusted-hops", hops)
            .app(everything())
            .serve(80)
            .await?;
        let headers = &rig.get("a.example", "/headers", &said).await?.json()?["headers"];
        for (name, value) in [
            ("X-Forwarded-For", "10.0.0.1, 127.0.0.1"),
            ("X-Forwarded-Proto", proto),
            ("X-Envoy-External-Address", address),
        ] {
            ensure!(headers[name] == json!([value]), "{hops} hops: {headers}");
        }
        ensure!(headers.get("X-Envoy-Internal").is_none(), "{headers}");
    }
    Ok(())
}

/// A policy needs a ReferenceGrant for a processor of another namespace; without one nothing passes it.
async fn namespaces() -> anyhow::Result<()> {
    let foreign = json!({
        "backendRef": {"name": "processor", "namespace": "other", "port": 80},
        "failureMode": "FailOpen",
    });
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "grant", "namespace": "other"},
        "spec": {
            "from": [{"group": "agentgateway.dev", "kind": "AgentgatewayPolicy", "namespace": "tenant"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    });
    let objects = Objects::http()
        .mine(everything())
        .victim()
        .with(service("other", "processor"))
        .with(policy("tenant", target("HTTPRoute", "mine", None), foreign));
    let rig = objects.serve(80).await?;
    let answer = rig.get("mine.example", "/headers", &[]).await?;
    ensure!(answer.status == 500, "{answer:?}");
    let answer = rig.get("victim.example", "/headers", &[]).await?;
    ensure!(!processed(&answer)?, "{answer:?}");
    let rig = objects.with(grant).serve(80).await?;
    let answer = rig.get("mine.example", "/headers", &[]).await?;
    ensure!(processed(&answer)?, "{answer:?}");
    Ok(())
}

/// Backends are not on the gateway's own machine, whether that is written or a name's meaning.
async fn local_backends() -> anyhow::Result<()> {
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let port = httpbin.address.port();
    for (host, status) in [
        ("127.0.0.1", 500),
        ("::ffff:127.0.0.1", 500),
        ("0.0.0.0", 500),
        ("169.254.169.254", 500),
        ("localhost", 500),
        // Names only the resolver knows the meaning of.
        ("127.1", 503),
        ("2130706433", 503),
        ("0x7f.0.0.1", 503),
    ] {
        let backend = json!({
            "apiVersion": "agentgateway.dev/v1alpha1", "kind": "AgentgatewayBackend",
            "metadata": {"name": "local", "namespace": "tenant"},
            "spec": {"static": {"host": host, "port": port}},
        });
        let reference =
            json!([{"group": "agentgateway.dev", "kind": "AgentgatewayBackend", "name": "local"}]);
        let rig = Objects::http()
            .with(backend)
            .mine(json!([{"backendRefs": reference}]))
            .victim()
            .serve(80)
            .await?;
        let answer = rig.get("mine.example", "/headers", &[]).await?;
        ensure!(answer.status == status, "{host}: {answer:?}");
        let answer = rig.get("victim.example", "/headers", &[]).await?;
        ensure!(answer.status == 200, "{host}: {answer:?}");
    }
    Ok(())
}

/// A condition that takes too many steps refuses what it guards, also with a processor that may be left out; other teams go on.
async fn conditions() -> anyhow::Result<()> {
    let list = format!("[{}]", "1,".repeat(30));
    for (condition, status) in [
        (
            format!("{list}.all(a, {list}.all(b, {list}.all(c, a + b + c >= 0)))"),
            500,
        ),
        ("request.path.matches('[a-z]{3}|[\\\\w]{100}')".into(), 500),
        (
            format!("{list}.exists(a, request.path.matches('^/headers$'))"),
            200,
        ),
        // Nested as deep as may be: evaluation recurses.
        (
            format!("{}1{} == 61", "(1 + ".repeat(60), ")".repeat(60)),
            200,
        ),
        (
            format!("{}1{} == 1", "[".repeat(15), "].map(x, x)[0]".repeat(15)),
            200,
        ),
    ] {
        let mut case = processor();
        case["failureMode"] = "FailOpen".into();
        let conditional = json!({"conditional": [{"condition": condition, "policy": case}]});
        let rig = Objects::http()
            .mine(everything())
            .policy("tenant", target("HTTPRoute", "mine", None), conditional)
            .victim()
            .serve(80)
            .await?;
        let answer = rig.get("mine.example", "/headers", &[]).await?;
        ensure!(answer.status == status, "{condition}: {answer:?}");
        if status == 200 {
            ensure!(processed(&answer)?, "{condition}: {answer:?}");
        }
        let answer = rig.get("victim.example", "/headers", &[]).await?;
        ensure!(answer.status == 200, "{condition}: {answer:?}");
    }
    Ok(())
}

/// A route whose regular expressions are too large is refused as a whole; other teams go on.
async fn regular_expressions() -> anyhow::Result<()> {
    let large: Vec<Value> = (0..8)
        .map(|n| json!({"path": {"type": "RegularExpression", "value": format!("/{n}/[\\w]{{100}}")}}))
        .collect();
    let rules = json!([
        {"matches": large, "backendRefs": to("app")},
        {"backendRefs": to("app")},
    ]);
    let rig = Objects::http().mine(rules).victim().serve(80).await?;
    let answer = rig.get("mine.example", "/headers", &[]).await?;
    ensure!(answer.status == 500, "{answer:?}");
    let answer = rig.get("victim.example", "/headers", &[]).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// A request is refused if the regular expressions of its routes would take too long for it, wherever they look; other teams go
/// on, and so do other requests of this one.
async fn slow_expressions() -> anyhow::Result<()> {
    // Nearly every byte of a long text is a state of its own.
    let pattern = "[ab]*a[ab]{400}c";
    let mut state = 1u32;
    let mut next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if state >> 31 == 0 { 'a' } else { 'b' }
    };
    let noise: String = (0..12_000).map(&mut next).collect();
    let field = |name: &str| json!([{"type": "RegularExpression", "name": name, "value": pattern}]);
    let path = json!({"type": "RegularExpression", "value": format!("/anything/{pattern}")});
    for (matched, asked, header) in [
        (json!({"path": path}), format!("/anything/{noise}"), None),
        (
            json!({"headers": field("x-a")}),
            "/anything".into(),
            Some(noise.as_str()),
        ),
        (
            json!({"queryParams": field("a")}),
            format!("/anything?a={noise}"),
            None,
        ),
    ] {
        let rules = json!([
            {"matches": [matched], "backendRefs": to("app")},
            {"backendRefs": to("app")},
        ]);
        let rig = Objects::http().mine(rules).victim().serve(80).await?;
        let header = header.map(|value| format!("x-a: {value}"));
        let header: Vec<&str> = header.iter().flat_map(|line| ["-H", line]).collect();
        let answer = rig.get("mine.example", &asked, &header).await?;
        ensure!(answer.status == 404, "{matched}: {answer:?}");
        let answer = rig
            .get("mine.example", "/anything/abc?a=b", &["-H", "x-a: b"])
            .await?;
        ensure!(answer.status == 200, "{matched}: {answer:?}");
        let answer = rig.get("victim.example", &asked, &header).await?;
        ensure!(answer.status == 200, "{matched}: {}", answer.status);
    }
    Ok(())
}
