//! The benchmark's results as a table and as a plot.

use std::fmt::Write as _;

use super::{Plan, mode::Mode, sample};

/// Measurements of one proxy in one mode: medians.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// CPU microseconds per request, user and system.
    pub cpu: f64,
    /// Requests per second under full load.
    pub per_second: f64,
    /// Resident bytes at the end of that.
    pub resident: f64,
    /// Median latency at the fixed rate, in microseconds.
    pub p50: f64,
    /// 99th percentile, in microseconds.
    pub p99: f64,
}

/// A mode's results.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The mode.
    pub mode: &'static Mode,
    /// Requests per second when latencies were measured.
    pub rate: f64,
    /// The gateway's share of Envoy's CPU time per request: the median of what was measured side by side.
    pub ratio: f64,
    /// Envoy's figures.
    pub envoy: Side,
    /// The gateway's.
    pub ours: Side,
}

/// Memory of open exchanges: bytes of an idle connection, and what an open exchange adds to it.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Number of exchanges that were open.
    pub exchanges: usize,
    /// Envoy's figures.
    pub envoy: (f64, f64),
    /// The gateway's.
    pub ours: (f64, f64),
}

/// Everything in Markdown, with how and where it was measured. `first` is whom the gateway was measured beside.
#[must_use]
pub fn markdown(rows: &[Row], open: Option<Open>, plan: Plan, date: &str, first: &str) -> String {
    let mut out = format!(
        "{}, {date}; medians of {} rounds of {} interleaved seconds. Each pair is {first} / gateway.\n\n",
        sample::machine(),
        plan.rounds,
        plan.seconds
    );
    out.push_str(
        "| mode | CPU µs/request | ratio | aim | requests/s | at a fixed rate of | p50 ms | p99 ms | RSS MiB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (e, o) = (&row.envoy, &row.ours);
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {} | {:.1} / {:.1} | **{:.2}** | {:.2} | {:.0} / {:.0} | {:.0}/s | {} | {} | {:.0} / {:.0} |",
            row.mode.title,
            e.cpu,
            o.cpu,
            row.ratio,
            row.mode.target,
            e.per_second,
            o.per_second,
            row.rate,
            milliseconds(e.p50, o.p50),
            milliseconds(e.p99, o.p99),
            e.resident / MIB,
            o.resident / MIB,
        );
    }
    if let Some(open) = open {
        let _ = writeln!(
            out,
            "\n| memory, {} at a time | {first} | gateway |\n|---|---|---|\n\
             | an idle connection | {:.1} KiB | {:.1} KiB |\n\
             | what an open exchange (headers) adds | {:.1} KiB | {:.1} KiB |",
            open.exchanges,
            open.envoy.0 / KIB,
            open.ours.0 / KIB,
            open.envoy.1 / KIB,
            open.ours.1 / KIB,
        );
    }
    out
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

fn milliseconds(envoy: f64, ours: f64) -> String {
    format!("{:.2} / {:.2}", envoy / 1e3, ours / 1e3)
}

/// CPU time per request as bars, Envoy's being the whole width.
#[must_use]
pub fn plot(rows: &[Row]) -> String {
    const LEFT: f64 = 300.0;
    const WIDTH: f64 = 480.0;
    const STEP: f64 = 34.0;
    const TOP: f64 = 40.0;
    let height = TOP + STEP * rows.len() as f64 + 12.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"860\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">CPU time per request as a share of Envoy's (grey); the line is the aim</text>\n"
    );
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + STEP * index as f64;
        let ratio = row.ratio;
        let aim = LEFT + WIDTH * row.mode.target;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{text}\" text-anchor=\"end\">{title}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"24\" fill=\"#dddddd\"/>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{bar:.1}\" height=\"24\" fill=\"#b7410e\"/>\n\
             <line x1=\"{aim:.1}\" x2=\"{aim:.1}\" y1=\"{y}\" y2=\"{bottom}\" stroke=\"#000000\" stroke-dasharray=\"3 2\"/>\n\
             <text x=\"{after}\" y=\"{text}\">{ratio:.2}</text>",
            x = LEFT - 10.0,
            text = y + 17.0,
            title = row.mode.title,
            bar = WIDTH * ratio.min(1.1),
            bottom = y + 24.0,
            after = LEFT + WIDTH + 12.0,
        );
    }
    out.push_str("</svg>\n");
    out
}

/// `document` with what stands between the markers replaced by `results`.
///
/// # Errors
/// The document has no markers.
pub fn insert(document: &str, results: &str) -> anyhow::Result<String> {
    const BEGIN: &str = "<!-- bench: begin -->\n";
    const END: &str = "<!-- bench: end -->";
    let (before, rest) = document
        .split_once(BEGIN)
        .ok_or_else(|| anyhow::anyhow!("there is no {} in the document", BEGIN.trim()))?;
    let (_, after) = rest
        .split_once(END)
        .ok_or_else(|| anyhow::anyhow!("there is no {END} in the document"))?;
    Ok(format!("{before}{BEGIN}{results}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_replace_what_is_between_the_markers() {
        let document = "a\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nb\n";
        assert_eq!(
            insert(document, "new\n").unwrap(),
            "a\n<!-- bench: begin -->\nnew\n<!-- bench: end -->\nb\n"
        );
        assert!(insert("nothing", "new").is_err());
    }
}
