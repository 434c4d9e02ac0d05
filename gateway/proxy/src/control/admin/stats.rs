//! Forms in which `/stats` shows numbers.

use std::{collections::BTreeMap, fmt::Write as _, time::UNIX_EPOCH};

use regex::{Regex, RegexBuilder};

use crate::telemetry::{
    histogram::{BOUNDS, Times},
    stats::{Kind, Sample, TimeSample},
};

/// The longest pattern of a filter, in bytes.
const PATTERN: usize = 1024;

/// The largest compiled form of a pattern, in bytes.
const COMPILED: usize = 1024 * 1024;

/// A pattern of a size that does not keep others waiting.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN {
        return Err(format!("longer than {PATTERN} bytes"));
    }
    RegexBuilder::new(text)
        .size_limit(COMPILED)
        .dfa_size_limit(COMPILED)
        .build()
        .map_err(|error| error.to_string())
}

/// `name: value`, one a line; histograms are for Prometheus alone.
pub(super) fn plain(samples: &[Sample]) -> String {
    let mut text = String::new();
    for sample in samples {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", sample.name, sample.value);
    }
    text
}

/// Envoy's JSON; histograms are for Prometheus alone.
pub(super) fn json(samples: &[Sample]) -> serde_json::Value {
    let stats = samples.iter();
    let stats =
        stats.map(|sample| serde_json::json!({ "name": sample.name, "value": sample.value }));
    serde_json::json!({ "stats": stats.collect::<Vec<_>>() })
}

/// Form of numbers for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text format 0.0.4.
    Text,
    /// OpenMetrics 1.0, which has exemplars. Names are the same: a counter whose name does not end as OpenMetrics wants it is of
    /// the type `unknown`.
    Open,
}

/// Numbers and histograms for Prometheus, in Envoy's names.
pub(super) fn prometheus(samples: &[Sample], times: &[TimeSample], form: Form) -> String {
    const COUNTER: &str = "_total";
    let mut families: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let family = family_name(&sample.family);
        families.entry(family).or_default().push(sample);
    }
    let mut text = String::new();
    for (family, samples) in families {
        let is_gauge = samples.first().map(|sample| sample.kind) == Some(Kind::Gauge);
        let (name, kind) = match (is_gauge, form, family.strip_suffix(COUNTER)) {
            (true, ..) => (family.as_str(), "gauge"),
            (false, Form::Text, _) => (family.as_str(), "counter"),
            (false, Form::Open, Some(name)) => (name, "counter"),
            (false, Form::Open, None) => (family.as_str(), "unknown"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for sample in samples {
            let labels: Vec<String> = sample.labels.iter().map(label).collect();
            let _ = writeln!(text, "{family}{{{}}} {}", labels.join(","), sample.value);
        }
    }
    let mut families: BTreeMap<String, Vec<&TimeSample>> = BTreeMap::new();
    for sample in times {
        let family = family_name(&sample.family);
        families.entry(family).or_default().push(sample);
    }
    for (family, samples) in families {
        let _ = writeln!(text, "# TYPE {family} histogram");
        for sample in samples {
            let (label, times) = (labels(&sample.labels), &sample.times);
            let shown = |at: usize| match form {
                Form::Text => String::new(),
                Form::Open => exemplar(times, at),
            };
            for (at, (bound, count)) in BOUNDS.iter().zip(&times.within).enumerate() {
                let exemplar = shown(at);
                let _ = writeln!(
                    text,
                    "{family}_bucket{{{label},le=\"{bound}\"}} {count}{exemplar}"
                );
            }
            let Times { count, sum, .. } = times;
            let exemplar = shown(BOUNDS.len());
            let _ = writeln!(
                text,
                "{family}_bucket{{{label},le=\"+Inf\"}} {count}{exemplar}"
            );
            let _ = writeln!(text, "{family}_sum{{{label}}} {sum}");
            let _ = writeln!(text, "{family}_count{{{label}}} {count}");
        }
    }
    if form == Form::Open {
        text.push_str("# EOF\n");
    }
    text
}

/// The exemplar of a bucket as OpenMetrics writes it, behind a blank; empty if there is none.
fn exemplar(times: &Times, bucket: usize) -> String {
    let Some(Some(exemplar)) = times.exemplars.get(bucket) else {
        return String::new();
    };
    let trace = u128::from_be_bytes(exemplar.trace);
    let since = exemplar.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (value, seconds) = (exemplar.value, since.as_secs_f64());
    format!(" # {{trace_id=\"{trace:032x}\"}} {value} {seconds:.3}")
}

fn family_name(family: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("envoy_{}", family.chars().map(plain).collect::<String>())
}

fn labels(labels: &[(&'static str, String)]) -> String {
    let labels: Vec<String> = labels.iter().map(label).collect();
    labels.join(",")
}

fn label((name, value): &(&'static str, String)) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{name}=\"{}\"", value.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::telemetry::stats::{Metrics, Owner};

    #[test]
    fn two_formats() {
        let metrics = Metrics::default();
        metrics.http("ingress").downstream_rq_total.add();
        metrics.ext_proc(Owner::Manager("ingress".into()), "first");
        let samples = metrics.samples();
        let text = plain(&samples);
        let json = json(&samples);
        assert_eq!(json["stats"].as_array().map(Vec::len), Some(samples.len()));
        assert!(text.contains("http.ingress.downstream_rq_total: 1\n"));
        assert!(text.contains("http.ingress.ext_proc.first.streams_started: 0\n"));
        metrics.http("ingress").status(StatusCode::OK);
        let stats = metrics.cluster("c");
        stats
            .upstream_rq_time
            .record(Duration::from_millis(7), Some([0xa1; 16]));
        let text = prometheus(&metrics.samples(), &metrics.times(), Form::Text);
        for line in [
            "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"ingress\"} 1\n",
            "# TYPE envoy_cluster_upstream_rq_time histogram\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"0.5\"} 0\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"10\"} 1\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"+Inf\"} 1\n",
            "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"c\"} 7\n",
            "envoy_http_ext_proc_first_streams_started{envoy_http_conn_manager_prefix=\"ingress\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(text.contains(
            "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"ingress\"} 1\n"
        ));
        assert!(text.contains("# TYPE envoy_http_downstream_rq_active gauge\n"));
        assert!(!text.contains("trace_id") && !text.contains("# EOF"));

        let open = prometheus(&metrics.samples(), &metrics.times(), Form::Open);
        for line in [
            "# TYPE envoy_http_downstream_rq counter\n",
            "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"ingress\"} 1\n",
            "# TYPE envoy_http_downstream_rq_xx unknown\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"5\"} 0\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"10\"} 1 # {trace_id=\"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1\"} 7 ",
        ] {
            assert!(open.contains(line), "{line}{open}");
        }
        assert!(open.ends_with("\n# EOF\n"));
    }

    #[test]
    fn patterns_have_a_size() {
        assert!(pattern("cluster.*(cx|rq)_active$").is_ok());
        assert!(pattern(r"\w+\.\d{1,3}").is_ok());
        for bad in [
            "(",
            r"(\w{100}){100}",
            "((a{100}){100}){100}",
            &"a".repeat(1025),
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
