//! Random tests from a seed that is printed, with proptest's shrinking.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

const SEED: u64 = 20_260_101;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs `test` over values of `strategy`; fails with the smallest value that it could find.
pub(crate) fn check<S: Strategy>(
    law: &str,
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> TestCaseResult,
) {
    let seed = number("HANSA_LAW_SEED").unwrap_or(SEED);
    let cases = number("HANSA_LAW_CASES").map_or(cases, |n| n.try_into().expect("cases"));
    eprintln!("{law}: HANSA_LAW_SEED={seed} HANSA_LAW_CASES={cases}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    match TestRunner::new_with_rng(config, rng).run(strategy, test) {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{law}: {reason}\nsmallest: {value:#?}"),
        Err(TestError::Abort(reason)) => panic!("{law}: {reason}"),
    }
}
