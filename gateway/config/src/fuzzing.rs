//! Number of runs of the tests that damage their input.

use proptest::{prelude::ProptestConfig, test_runner::RngSeed};

/// Runs `usual` cases, always the same ones; with `EXTPROC_FUZZ_RUNS=N`, N cases that differ each time.
pub(crate) fn runs(usual: u32) -> ProptestConfig {
    let asked = std::env::var("EXTPROC_FUZZ_RUNS").ok();
    match asked.and_then(|text| text.parse().ok()) {
        Some(cases) => ProptestConfig::with_cases(cases),
        None => ProptestConfig {
            cases: usual,
            rng_seed: RngSeed::Fixed(7),
            // Fixed runs find nothing new that a file would have to remember.
            failure_persistence: None,
            ..ProptestConfig::default()
        },
    }
}
