//! Regular expressions and CEL by their texts, kept from one translation to the next, and bounds of what one object may
//! have of them.

use std::{borrow::Cow, collections::HashMap};

use extproc_client::attributes::{Expression, Vocabulary};
use regex::{Regex, RegexBuilder};

/// Largest compiled form of one regular expression, in bytes. It may take several times as much in memory.
const ONE_REGEX: usize = 64 * 1024;
/// The same of all those of an object together, in bytes.
const ALL_REGEXES: usize = 512 * 1024;
/// The same of all objects of a namespace together, in bytes. The oldest have theirs first.
const NAMESPACE_REGEXES: usize = 8 * 1024 * 1024;
/// Most steps that all expressions of an object may take for one request.
const ALL_STEPS: u64 = 400_000;

/// Texts that were compiled.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    regexes: HashMap<String, Kept<Result<Fitted, String>>>,
    expressions: HashMap<String, Kept<Result<Expression, String>>>,
    /// Bytes of regular expressions by namespace, since the last sweep.
    taken: HashMap<String, usize>,
}

/// A regular expression with the limit that it fits into, in bytes.
#[derive(Clone, Debug)]
struct Fitted {
    regex: Regex,
    size: usize,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    /// It was asked for since the last sweep.
    used: bool,
}

impl Compiled {
    /// The bounds of one object of a namespace.
    pub(super) fn allowance<'a>(&'a mut self, namespace: &'a str) -> Allowance<'a> {
        let taken = self.taken.get(namespace).copied().unwrap_or_default();
        Allowance {
            bytes: ALL_REGEXES.min(NAMESPACE_REGEXES.saturating_sub(taken)),
            compiled: self,
            namespace,
            steps: ALL_STEPS,
            exceeded: false,
        }
    }

    /// Forgets what was not asked for since the last sweep.
    pub(super) fn sweep(&mut self) {
        fn sweep<T>(all: &mut HashMap<String, Kept<T>>) {
            all.retain(|_, kept| std::mem::take(&mut kept.used));
        }
        self.taken.clear();
        sweep(&mut self.regexes);
        sweep(&mut self.expressions);
    }
}

fn keep<T: Clone>(
    all: &mut HashMap<String, Kept<T>>,
    text: &str,
    compile: impl FnOnce() -> T,
) -> T {
    if let Some(kept) = all.get_mut(text) {
        kept.used = true;
        return kept.value.clone();
    }
    let value = compile();
    let kept = Kept {
        value: value.clone(),
        used: true,
    };
    all.insert(text.to_owned(), kept);
    value
}

/// Rest of an object's bounds.
pub(super) struct Allowance<'c> {
    compiled: &'c mut Compiled,
    namespace: &'c str,
    bytes: usize,
    steps: u64,
    /// Something was larger than may be.
    pub(super) exceeded: bool,
}

impl Allowance<'_> {
    /// Compiles a regular expression that matches whole values.
    ///
    /// # Errors
    /// It is empty, none, or larger than it may be.
    pub(super) fn whole(&mut self, pattern: &str) -> Result<Regex, String> {
        if pattern.is_empty() {
            return Err("a regular expression may not be empty".into());
        }
        self.take(&format!("^(?:{pattern})$"), Some(pattern))
    }

    /// Compiles a regular expression that is as it should be.
    ///
    /// # Errors
    /// It is larger than it may be.
    pub(super) fn regex(&mut self, pattern: &str) -> Result<Regex, String> {
        self.take(pattern, None)
    }

    fn take(&mut self, pattern: &str, inner: Option<&str>) -> Result<Regex, String> {
        if self.bytes == 0 {
            self.exceeded = true;
            return Err(format!(
                "the regular expressions of the object are larger together than {} KiB, or those of its namespace than {} KiB",
                ALL_REGEXES / 1024,
                NAMESPACE_REGEXES / 1024,
            ));
        }
        let found = keep(&mut self.compiled.regexes, pattern, || {
            compile(pattern, inner)
        });
        let size = found.as_ref().map_or(ONE_REGEX, |found| found.size);
        match self.bytes.checked_sub(size) {
            Some(left) => {
                self.bytes = left;
                match self.compiled.taken.get_mut(self.namespace) {
                    Some(taken) => *taken += size,
                    None => {
                        let namespace = self.namespace.to_owned();
                        self.compiled.taken.insert(namespace, size);
                    }
                }
            }
            None => {
                self.bytes = 0;
                return self.take(pattern, inner);
            }
        }
        self.exceeded |= matches!(&found, Err(error) if error.starts_with(TOO_LARGE));
        found.map(|found| found.regex)
    }

    /// Compiles an expression in agentgateway's vocabulary.
    ///
    /// # Errors
    /// It is none, or takes more steps than it may.
    pub(super) fn expression(&mut self, text: &str) -> Result<Expression, String> {
        let expression = keep(&mut self.compiled.expressions, text, || {
            Expression::compile_with(text, Vocabulary::Agentgateway)
                .map_err(|error| format!("is not a valid CEL expression: {error}"))
        })?;
        self.steps = self.steps.checked_sub(expression.steps()).ok_or_else(|| {
            format!("may take too many steps, with the other expressions of the object more than {ALL_STEPS}")
        })?;
        Ok(expression)
    }
}

const TOO_LARGE: &str = "the regular expression is larger than";

/// Compiles a pattern with the smallest limit that it fits into. `inner` has to be a regular expression by itself: `a)|(b` is
/// one only within the brackets that are put around it.
fn compile(pattern: &str, inner: Option<&str>) -> Result<Fitted, String> {
    let build = |pattern: &str, size| {
        RegexBuilder::new(pattern)
            .size_limit(size)
            .dfa_size_limit(size)
            .build()
    };
    let mut size = ONE_REGEX / 64;
    loop {
        let built = match inner {
            Some(inner) => build(inner, size).and_then(|_| build(pattern, size)),
            None => build(pattern, size),
        };
        match built {
            Ok(regex) => return Ok(Fitted { regex, size }),
            Err(regex::Error::CompiledTooBig(_)) if size < ONE_REGEX => size *= 4,
            Err(regex::Error::CompiledTooBig(_)) => {
                return Err(format!("{TOO_LARGE} {} KiB", ONE_REGEX / 1024));
            }
            Err(error) => {
                let error = error.to_string();
                let line: Cow<'_, str> = error.lines().last().unwrap_or_default().trim().into();
                return Err(line.into_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_all() {
        let mut compiled = Compiled::default();
        let mut allowance = compiled.allowance("a");
        assert!(
            allowance
                .whole("/api/v[0-9]+/[^/]+")
                .unwrap()
                .is_match("/api/v1/a")
        );
        assert!(allowance.whole(r"/[\w-]+\.html").is_ok());
        assert!(allowance.whole("a)|(b").is_err() && allowance.whole("").is_err());
        assert!(!allowance.exceeded);
        assert!(allowance.whole(r"[\w]{100}").is_err());
        assert!(allowance.exceeded);
        let mut allowance = compiled.allowance("a");
        let taken = (0..10_000).position(|n| allowance.whole(&format!("/{n}/[a-z]+")).is_err());
        assert!(taken.is_some_and(|taken| taken >= 128), "{taken:?}");
        assert!(allowance.exceeded);
        // A namespace has a bound too, and another one is not touched by it.
        let refused = (0..1000).position(|_| {
            let mut allowance = compiled.allowance("a");
            (0..64).any(|n| allowance.whole(&format!("/{n}/[a-z]+")).is_err())
        });
        assert!(refused.is_some_and(|refused| refused > 4), "{refused:?}");
        assert!(compiled.allowance("b").whole("/[a-z]+").is_ok());
    }

    #[test]
    fn expressions_of_an_object() {
        let mut compiled = Compiled::default();
        let mut allowance = compiled.allowance("a");
        let plain = "request.path == '/a'";
        assert!((0..300).all(|_| allowance.expression(plain).is_ok()));
        let heavy = "request.headers.exists(a, a == 'b')";
        let refused = (0..100).position(|_| allowance.expression(heavy).is_err());
        assert!(refused.is_some());
    }

    #[test]
    fn unused_texts_are_forgotten() {
        let mut compiled = Compiled::default();
        compiled.allowance("a").whole("a").unwrap();
        compiled.allowance("a").expression("1 == 2").unwrap();
        compiled.sweep();
        compiled.allowance("a").whole("a").unwrap();
        compiled.sweep();
        assert_eq!((compiled.regexes.len(), compiled.expressions.len()), (1, 0));
    }
}
