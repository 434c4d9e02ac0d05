//! The command line of the program `gateway`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::config::{self, Error, snapshot::Snapshot};

/// A minimal HTTP gateway with Envoy's external processing protocol (ext_proc v3).
///
/// Either three flags say all that is needed, or a file does:
///
///   gateway --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8000 --ext-proc http://127.0.0.1:18080
///   gateway --config envoy.yaml
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "gateway", version, verbatim_doc_comment)]
pub struct Cli {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT", conflicts_with = "config")]
    pub listen: Option<String>,

    /// Where requests go; the host may be a name.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub upstream: Option<String>,

    /// Where the processor is, which speaks gRPC without TLS.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub ext_proc: Option<String>,

    /// An Envoy bootstrap, YAML or JSON, instead of the flags above.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit.
    #[arg(long)]
    pub check: bool,

    /// Worker threads [default: one a core].
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,

    /// Settings in a Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub data_plane: crate::kubernetes::DataPlaneArgs,

    /// Another role than serving.
    #[cfg(feature = "kubernetes")]
    #[command(subcommand)]
    pub role: Option<crate::kubernetes::Role>,

    /// The form of log lines, and of the access log that the flags make.
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub log_format: LogForm,

    /// What to log: a level, or filters such as `info,h2=debug`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Text.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

/// Reads the command line. Prints help or a mistake, and exits, where there is nothing to run.
pub fn parse() -> Cli {
    Cli::parse()
}

impl Cli {
    /// The configuration that the file or the flags make.
    ///
    /// # Errors
    /// Names the flag, or file, line, column and path, of what is wrong or missing.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        match &self.config {
            Some(path) => config::load_file(path),
            None => config::from_flags(self),
        }
    }

    /// How many workers to run: as asked, otherwise one a core.
    pub fn workers(&self) -> NonZeroUsize {
        self.concurrency
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
