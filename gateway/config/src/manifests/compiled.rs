//! Regular expressions and CEL by their texts, kept from one translation to the next, and bounds of what one object may
//! have of them.

use std::{collections::HashMap, hash::Hash};

use extproc_client::{
    attributes::{Expression, Vocabulary},
    config::{PatternError, RegexMatcher, RegexSubstitution},
};

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
    matchers: Regexes<String, RegexMatcher>,
    /// By expression and what is put in place of what matches.
    substitutions: Regexes<(String, String), RegexSubstitution>,
    expressions: HashMap<String, Kept<Result<Expression, String>>>,
    /// Bytes of regular expressions by namespace, since the last sweep.
    taken: HashMap<String, usize>,
}

type Regexes<K, T> = HashMap<K, Kept<Result<Fitted<T>, String>>>;

/// A regular expression with the limit that it fits into, in bytes.
#[derive(Clone, Debug)]
struct Fitted<T> {
    regex: T,
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
        fn sweep<K, T>(all: &mut HashMap<K, Kept<T>>) {
            all.retain(|_, kept| std::mem::take(&mut kept.used));
        }
        self.taken.clear();
        sweep(&mut self.matchers);
        sweep(&mut self.substitutions);
        sweep(&mut self.expressions);
    }
}

fn keep<K: Eq + Hash, T: Clone>(
    all: &mut HashMap<K, Kept<T>>,
    text: K,
    compile: impl FnOnce() -> T,
) -> T {
    if let Some(kept) = all.get_mut(&text) {
        kept.used = true;
        return kept.value.clone();
    }
    let value = compile();
    let kept = Kept {
        value: value.clone(),
        used: true,
    };
    all.insert(text, kept);
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
    pub(super) fn whole(&mut self, pattern: &str) -> Result<RegexMatcher, String> {
        self.check_room()?;
        let found = keep(&mut self.compiled.matchers, pattern.to_owned(), || {
            fit(|size| RegexMatcher::within(pattern, size))
        });
        self.take(found)
    }

    /// Compiles a regular expression and what takes the place of its matches.
    ///
    /// # Errors
    /// It is larger than it may be.
    pub(super) fn substitution(
        &mut self,
        pattern: &str,
        with: &str,
    ) -> Result<RegexSubstitution, String> {
        self.check_room()?;
        let key = (pattern.to_owned(), with.to_owned());
        let found = keep(&mut self.compiled.substitutions, key, || {
            fit(|size| RegexSubstitution::within(pattern, with, size))
        });
        self.take(found)
    }

    /// Refuses to compile another regular expression if there is no room for any.
    fn check_room(&mut self) -> Result<(), String> {
        match self.bytes {
            0 => Err(self.exceed()),
            _ => Ok(()),
        }
    }

    fn exceed(&mut self) -> String {
        self.exceeded = true;
        format!(
            "the regular expressions of the object are larger together than {} KiB, or those of its namespace than {} KiB",
            ALL_REGEXES / 1024,
            NAMESPACE_REGEXES / 1024,
        )
    }

    /// Counts a regular expression.
    fn take<T>(&mut self, found: Result<Fitted<T>, String>) -> Result<T, String> {
        let size = found.as_ref().map_or(ONE_REGEX, |found| found.size);
        self.bytes = match self.bytes.checked_sub(size) {
            Some(left) => left,
            None => {
                self.bytes = 0;
                return Err(self.exceed());
            }
        };
        match self.compiled.taken.get_mut(self.namespace) {
            Some(taken) => *taken += size,
            None => {
                let namespace = self.namespace.to_owned();
                self.compiled.taken.insert(namespace, size);
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
        let expression = keep(&mut self.compiled.expressions, text.to_owned(), || {
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

/// Builds a regular expression with the smallest limit that it fits into.
fn fit<T>(build: impl Fn(usize) -> Result<T, PatternError>) -> Result<Fitted<T>, String> {
    let mut size = ONE_REGEX / 64;
    loop {
        match build(size) {
            Ok(regex) => return Ok(Fitted { regex, size }),
            Err(PatternError::TooLarge) if size < ONE_REGEX => size *= 4,
            Err(PatternError::TooLarge) => {
                return Err(format!("{TOO_LARGE} {} KiB", ONE_REGEX / 1024));
            }
            Err(PatternError::Invalid(error)) => {
                return Err(error.lines().last().unwrap_or_default().trim().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use extproc_client::config::Effort;

    use super::*;

    #[test]
    fn one_and_all() {
        let mut compiled = Compiled::default();
        let mut allowance = compiled.allowance("a");
        assert!(
            allowance
                .whole("/api/v[0-9]+/[^/]+")
                .unwrap()
                .try_matches("/api/v1/a", &mut Effort::default())
                .unwrap()
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
        assert_eq!(
            (compiled.matchers.len(), compiled.expressions.len()),
            (1, 0)
        );
    }
}
