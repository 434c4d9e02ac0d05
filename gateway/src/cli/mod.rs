//! The command line of the program `gateway`.

#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use clap::{Parser, ValueEnum};
use gateway_config::{
    self as config, Error,
    bootstrap::{self, Flags},
    manifests::{FileOptions, types::Key},
    snapshot::{EndpointAddress, Inspect, Snapshot},
};
use gateway_proxy::Options;

/// A minimal HTTP gateway with Envoy's external processing protocol (ext_proc v3).
///
/// Either three flags say all that is needed, or a file does:
///
///   gateway --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8000 --ext-proc http://127.0.0.1:18080
///   gateway --config envoy.yaml
///   gateway --config manifests/
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "gateway", version, verbatim_doc_comment)]
pub(crate) struct Cli {
    /// Address to listen on.
    #[arg(long, value_name = "IP:PORT", conflicts_with = "config")]
    pub(crate) listen: Option<String>,

    /// Address that requests go to; the host may be a name.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub(crate) upstream: Option<String>,

    /// Address of the processor, which speaks gRPC without TLS.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub(crate) ext_proc: Option<String>,

    /// An Envoy bootstrap or Kubernetes manifests, YAML or JSON, instead of the flags above; manifests
    /// may be a folder.
    #[arg(long, short, value_name = "FILE|FOLDER")]
    pub(crate) config: Option<PathBuf>,

    /// Endpoint behind a port of a Service that has no EndpointSlice among the manifests; several times for several endpoints.
    #[arg(long, value_name = "NAMESPACE/NAME:PORT=HOST:PORT", value_parser = endpoints, requires = "config")]
    pub(crate) endpoints: Vec<Endpoints>,

    /// Bind this port in place of a listener's, such as 80=8080.
    #[arg(long, value_name = "PORT=PORT", value_parser = listen_port, requires = "config")]
    pub(crate) listen_port: Vec<(u16, u16)>,

    /// Let backends of manifests be on this machine: loopback and link-local addresses, Unix sockets.
    #[arg(long, requires = "config")]
    pub(crate) local_backends: bool,

    /// The namespace of manifests that name none.
    #[arg(
        long,
        short,
        value_name = "NAME",
        default_value = "default",
        requires = "config"
    )]
    pub(crate) namespace: String,

    /// One more name by which the admin server is reached, such as that of a Service. Others than these, `localhost` and addresses are
    /// refused: a page that makes its own name lead there would read it.
    #[arg(long, value_name = "NAME")]
    pub(crate) admin_host: Vec<String>,

    /// Show exchanges with processors on a page of their own, off by default [default address: 127.0.0.1:15001].
    ///
    /// It shows what clients and processors send, some secrets aside: docs/inspector.md.
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:15001")]
    pub(crate) inspect: Option<SocketAddr>,

    /// Record so many bytes of each body, too.
    #[arg(long, value_name = "BYTES", requires = "inspect")]
    pub(crate) inspect_bodies: Option<usize>,

    /// Record one of so many exchanges.
    #[arg(long, value_name = "N", requires = "inspect")]
    pub(crate) inspect_sample: Option<NonZeroU64>,

    /// Record exchanges alone whose METHOD AUTHORITY PATH contains this.
    #[arg(long, value_name = "TEXT", requires = "inspect")]
    pub(crate) inspect_match: Option<String>,

    /// One more header, query parameter or attribute whose value is not recorded; `*` at its beginning stands for anything.
    #[arg(long, value_name = "NAME", requires = "inspect")]
    pub(crate) inspect_redact: Vec<String>,

    /// One more address that the page may play recorded requests to, beside the processors of the configuration.
    #[arg(long, value_name = "HOST:PORT", requires = "inspect")]
    pub(crate) inspect_replay: Vec<String>,

    /// Send traces to this collector of OpenTelemetry, where the configuration says nothing of traces. Port 4317 speaks gRPC, others
    /// HTTP; `OTEL_EXPORTER_OTLP_PROTOCOL` says otherwise.
    ///
    /// The variables of the OpenTelemetry specification count as well: docs/observability.md.
    #[cfg(feature = "otel")]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,

    /// Check the configuration and exit.
    #[arg(long)]
    pub(crate) check: bool,

    /// With --check: say what of the configuration is accepted without effect.
    #[arg(long, requires = "check")]
    pub explain: bool,

    /// Worker threads [default: one a core].
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<NonZeroUsize>,

    /// Settings in a Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub(crate) data_plane: kubernetes::DataPlaneArgs,

    /// Another role than serving.
    #[cfg(feature = "kubernetes")]
    #[command(subcommand)]
    pub(crate) role: Option<kubernetes::Role>,

    /// The form of log lines, and of the access log that the flags make.
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub(crate) log_format: LogForm,

    /// Log level, or filters such as `info,h2=debug`. Of `h2`, errors alone if it is not named.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub(crate) log_level: String,
}

/// One `--endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// The Service.
    pub(crate) service: Key,
    /// Its port.
    pub(crate) port: u16,
    /// Address of the endpoint.
    pub(crate) address: EndpointAddress,
}

fn endpoints(text: &str) -> Result<Endpoints, String> {
    let parsed = || {
        let (service, address) = text.split_once('=')?;
        let (namespace, service) = service.split_once('/')?;
        let (name, port) = service.rsplit_once(':')?;
        let (host, at) = address.rsplit_once(':')?;
        let at = at.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, at)),
            Err(_) if host.is_empty() => return None,
            Err(_) => EndpointAddress::Name(host.to_owned(), at),
        };
        Some(Endpoints {
            service: Key::new(namespace, name),
            port: port.parse().ok()?,
            address,
        })
    };
    parsed().ok_or_else(|| "expected NAMESPACE/NAME:PORT=HOST:PORT".to_owned())
}

fn listen_port(text: &str) -> Result<(u16, u16), String> {
    text.split_once('=')
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
        .ok_or_else(|| "expected two ports, such as 80=8080".to_owned())
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// Text.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

/// Reads the command line. Prints help or a mistake, and exits, where there is nothing to run.
pub(crate) fn parse() -> Cli {
    Cli::parse()
}

impl Cli {
    /// The configuration that the file or the flags make.
    ///
    /// # Errors
    /// Names the flag, or file, line, column and path, of what is wrong or missing.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = self.configured()?;
        if let Some(otlp) = self.otlp()? {
            otlp.add_to(&mut snapshot)?;
        }
        Ok(snapshot)
    }

    /// The collector of traces that the command line or the environment names.
    ///
    /// # Errors
    /// It cannot be understood.
    pub(crate) fn otlp(&self) -> Result<Option<bootstrap::Otlp>, Error> {
        #[cfg(feature = "otel")]
        {
            let variable = |name: &str| std::env::var(name).ok();
            bootstrap::Otlp::from_environment(self.otlp_endpoint.as_deref(), variable)
        }
        #[cfg(not(feature = "otel"))]
        Ok(None)
    }

    /// Settings that all roles that serve have in common.
    pub(crate) fn options(&self) -> Options {
        let options = Options::default().concurrency(self.workers().get());
        let names = self.admin_host.iter();
        let options = names.fold(options, |options, name| options.admin_host(name));
        #[cfg(feature = "otel")]
        let options = options.tracing(std::sync::Arc::new(gateway_otel::OpenTelemetry::new()));
        options
    }

    fn configured(&self) -> Result<Snapshot, Error> {
        match &self.config {
            Some(path) => config::load(path, &self.file_options()),
            None => config::from_flags(&Flags {
                listen: self.listen.as_deref(),
                upstream: self.upstream.as_deref(),
                ext_proc: self.ext_proc.as_deref(),
                log: match self.log_format {
                    LogForm::Human => bootstrap::LogForm::Human,
                    LogForm::Json => bootstrap::LogForm::Json,
                },
            }),
        }
    }

    /// Facts about manifests that a cluster would give.
    fn file_options(&self) -> FileOptions {
        let mut options = FileOptions {
            listen_ports: self.listen_port.iter().copied().collect(),
            local_backends: self.local_backends,
            namespace: self.namespace.clone(),
            ..FileOptions::default()
        };
        for given in &self.endpoints {
            let key = (given.service.clone(), given.port);
            let known = options.endpoints.entry(key).or_default();
            known.push(given.address.clone());
        }
        options
    }

    /// Address and settings of the inspector, if there is one: the flags hold in place of the configuration's.
    pub(crate) fn inspector(
        &self,
        configured: Option<&Inspect>,
    ) -> Option<(SocketAddr, gateway_inspector::Settings)> {
        let flags = self.inspect.map(|address| Inspect {
            address,
            body_bytes: self.inspect_bodies,
            one_in: self.inspect_sample.unwrap_or(NonZeroU64::MIN),
            only: self.inspect_match.clone(),
            redact: self.inspect_redact.clone(),
            replay: self.inspect_replay.clone(),
            ..Inspect::default()
        });
        let inspect = flags.as_ref().or(configured)?;
        let mut settings = gateway_inspector::Settings::default();
        settings.bodies = inspect.body_bytes.unwrap_or(settings.bodies);
        settings.exchanges = inspect.exchanges.unwrap_or(settings.exchanges);
        settings.bytes = inspect.bytes.unwrap_or(settings.bytes);
        settings.one_in = inspect.one_in.get();
        settings.only.clone_from(&inspect.only);
        settings.replay.clone_from(&inspect.replay);
        for name in &inspect.redact {
            settings.redaction = settings.redaction.and(name.as_str());
        }
        Some((inspect.address, settings))
    }

    /// Number of workers to run: as asked, otherwise one a core.
    pub(crate) fn workers(&self) -> NonZeroUsize {
        self.concurrency
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the program as it is built unless asked otherwise.
    #[cfg(all(feature = "otel", not(feature = "kubernetes")))]
    #[test]
    fn the_help_is_as_documented() {
        use clap::CommandFactory as _;

        let help = Cli::command().render_long_help().to_string();
        let document = include_str!("../../../docs/configuration.md");
        assert!(
            document.contains(&format!("```text\n{help}```")),
            "docs/configuration.md has not this:\n{help}"
        );
    }

    #[test]
    fn file_and_flags_exclude_each_other() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("gateway --config a.yaml --check --concurrency 2").is_ok());
        assert!(parse("gateway --listen a --upstream b --ext-proc c --log-format json").is_ok());
        let error = parse("gateway --config a.yaml --listen b").unwrap_err();
        assert!(error.to_string().contains("cannot be used with"), "{error}");
        assert!(parse("gateway --concurrency 0").is_err());
    }

    #[test]
    fn endpoints_and_ports() {
        let parsed = endpoints("demo/web:80=127.0.0.1:8000").unwrap();
        assert_eq!(parsed.service, Key::new("demo", "web"));
        assert_eq!(parsed.port, 80);
        let address = EndpointAddress::Socket("127.0.0.1:8000".parse().unwrap());
        assert_eq!(parsed.address, address);
        let named = endpoints("demo/web:80=web.example:8000").unwrap().address;
        assert_eq!(named, EndpointAddress::Name("web.example".into(), 8000));
        for bad in ["", "a/b=c:1", "a:1=b:1", "a/b:1=:1", "a/b:1=c", "a/b:x=c:1"] {
            assert!(endpoints(bad).is_err(), "{bad}");
        }
        assert_eq!(listen_port("80=8080"), Ok((80, 8080)));
        assert!(listen_port("80").is_err());
    }

    #[test]
    fn nothing_given_says_what_is_needed() {
        let cli = Cli::try_parse_from(["gateway"]).unwrap();
        let error = cli.snapshot().unwrap_err().to_string();
        assert_eq!(
            error,
            "--listen: missing: give --listen, --upstream and --ext-proc, or --config FILE"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let cli = Cli::try_parse_from(["gateway", "--config", "/nowhere/envoy.yaml"]).unwrap();
        let error = cli.snapshot().unwrap_err().to_string();
        assert!(
            error.starts_with("/nowhere/envoy.yaml: cannot be read: "),
            "{error}"
        );
    }
}
