//! The benchmark: the gateway beside a real Envoy. `docs/performance.md` says what it measures.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use tests::bench::{
    Bench, Plan,
    mode::{MODES, Mode},
    report,
};

/// Measures the gateway beside a real Envoy 1.40, mode by mode.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// Times that the proxies are started in each mode.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load each time, one by one in turn.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these modes, by name; "open" is the memory of open exchanges.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Counts the gateway's instructions per request (callgrind) instead.
    #[arg(long)]
    instructions: bool,
    /// Another build of the gateway, measured in Envoy's place.
    #[arg(long, conflicts_with = "write")]
    beside: Option<PathBuf>,
    /// Puts the results into docs/performance.md and docs/performance.svg.
    #[arg(long)]
    write: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    if let Some(unknown) = options
        .only
        .iter()
        .find(|name| *name != "open" && MODES.iter().all(|mode| mode.name != name.as_str()))
    {
        let names: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
        anyhow::bail!("no mode {unknown}; there are: {}, open", names.join(", "));
    }
    let modes: Vec<&'static Mode> = MODES.iter().filter(|mode| wanted(mode.name)).collect();
    let plan = Plan {
        rounds: options.rounds.max(1),
        seconds: options.seconds.max(1),
    };
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures mean nothing");
    }
    let bench = Bench::new(options.beside.as_deref())?;
    if options.instructions {
        for mode in modes.iter().filter(|mode| mode.connections == 16) {
            let count = bench.instructions(mode).await?;
            print!("{:14} {count:9.0} instructions/request", mode.name);
            if options.beside.is_some() {
                let other = bench.instructions_beside(mode).await?;
                print!(", the other build {other:9.0}: {:.3}", count / other);
            }
            println!();
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    for mode in modes {
        rows.push(bench.measure(mode, plan).await?);
    }
    let open = match wanted("open") {
        true => Some(bench.open_exchanges().await?),
        false => None,
    };
    let first = match options.beside {
        Some(_) => "the other build",
        None => "Envoy",
    };
    let results = report::markdown(&rows, open, plan, &today()?, first);
    println!("{results}");
    if options.write {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
        let page = docs.join("performance.md");
        let document = std::fs::read_to_string(&page)
            .with_context(|| format!("cannot read {}", page.display()))?;
        std::fs::write(&page, report::insert(&document, &results)?)?;
        std::fs::write(docs.join("performance.svg"), report::plot(&rows))?;
    }
    Ok(())
}

fn today() -> anyhow::Result<String> {
    let output = std::process::Command::new("date")
        .args(["-u", "+%F"])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
