//! Regular expressions whose time is bounded, whatever the expression and the text.
//!
//! An expression runs as a DFA of which only those transitions are built that texts need, so a byte costs one look-up where
//! its transition is known. To build a transition takes time in proportion to the states of the expression, and there are
//! expressions (`[ab]*a[ab]{400}`) for which every byte of a text needs another one. An [`Effort`] bounds how many are built.

use std::{
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

use regex_automata::{
    Anchored, Input,
    hybrid::dfa::{Cache, DFA},
    nfa::thompson::{self, WhichCaptures},
    util::pool::Pool,
};
use regex_syntax::hir::{Hir, HirKind, Look};

/// Work that regular expressions may still do, for one request or one value: about one for each state that is visited.
#[derive(Clone, Copy, Debug)]
pub struct Effort(u64);

impl Default for Effort {
    fn default() -> Self {
        Self::MOST
    }
}

impl Effort {
    /// Some milliseconds of a processor.
    const MOST: Self = Self(2_000_000);

    /// Effort for so many visits of states.
    #[cfg(feature = "cel")]
    pub(crate) fn new(visits: u64) -> Self {
        Self(visits)
    }

    /// Visits that are left.
    #[cfg(any(feature = "cel", test))]
    pub(crate) fn left(self) -> u64 {
        self.0
    }

    /// Returns true once something could not be decided within the effort. From then on nothing is.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self, visits: u64) -> Option<()> {
        self.0 = self.0.saturating_sub(visits);
        (!self.is_spent()).then_some(())
    }
}

/// Reason for which a text cannot be used as a regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Syntax(String),
    Size,
}

/// Sizes of a compiled expression, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Its own, at most.
    pub(crate) compiled: usize,
    /// Transitions that are kept, for each thread that uses it.
    pub(crate) kept: usize,
}

impl Sizes {
    /// Those of expressions of the operator; as in the crate `regex`.
    pub(crate) const USUAL: Self = Self {
        compiled: 10 * 1024 * 1024,
        kept: 2 * 1024 * 1024,
    };

    /// An expression of at most so many bytes.
    pub(crate) fn within(compiled: usize) -> Self {
        Self {
            compiled,
            kept: (2 * compiled).max(16 * 1024),
        }
    }
}

type NewCache = Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>;

/// A compiled regular expression that says whether a text matches.
#[derive(Clone)]
pub(crate) struct BoundedRegex {
    dfa: DFA,
    whole: bool,
    caches: Arc<Pool<Cache, NewCache>>,
}

impl fmt::Debug for BoundedRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedRegex")
            .field("states", &self.states())
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

impl BoundedRegex {
    /// Compiles an expression that finds a part of a text, or has to match the whole of it.
    ///
    /// # Errors
    /// It is none, or too large.
    pub(crate) fn new(pattern: &str, whole: bool, sizes: Sizes) -> Result<Self, Unusable> {
        let syntax = |error: regex_syntax::Error| Unusable::Syntax(error.to_string());
        // By itself: `a)|(b` is an expression only within brackets that are put around it.
        let mut hir = ascii_words(regex_syntax::parse(pattern).map_err(syntax)?);
        if whole {
            hir = Hir::concat(vec![hir, Hir::look(Look::End)]);
        }
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .nfa_size_limit(Some(sizes.compiled))
                    .which_captures(WhichCaptures::None),
            )
            .build_from_hir(&hir)
            .map_err(|error| match error.size_limit() {
                Some(_) => Unusable::Size,
                None => Unusable::Syntax(error.to_string()),
            })?;
        let dfa = DFA::builder()
            .configure(
                DFA::config()
                    .cache_capacity(sizes.kept)
                    .skip_cache_capacity_check(true),
            )
            .build_from_nfa(nfa)
            .map_err(|error| Unusable::Syntax(error.to_string()))?;
        let caches: NewCache = {
            let dfa = dfa.clone();
            Box::new(move || dfa.create_cache())
        };
        Ok(Self {
            dfa,
            whole,
            caches: Arc::new(Pool::new(caches)),
        })
    }

    /// States of the expression.
    pub(crate) fn states(&self) -> u64 {
        self.dfa.get_nfa().states().len() as u64
    }

    /// Tells if a text matches; `None` if that cannot be told within the effort.
    pub(crate) fn is_match(&self, text: &str, effort: &mut Effort) -> Option<bool> {
        if effort.is_spent() {
            return None;
        }
        let found = self.search(text, effort);
        if found.is_none() {
            *effort = Effort(0);
        }
        found
    }

    fn search(&self, text: &str, effort: &mut Effort) -> Option<bool> {
        /// Cost of a transition beside the visits.
        const TRANSITION: u64 = 64;
        let cost = self.states() + TRANSITION;
        let mut cache = self.caches.get();
        let anchored = match self.whole {
            true => Anchored::Yes,
            false => Anchored::No,
        };
        let input = Input::new(text).anchored(anchored);
        let mut state = self.dfa.start_state_forward(&mut cache, &input).ok()?;
        for byte in text.bytes() {
            let known = match state.is_tagged() {
                true => None,
                false => Some(self.dfa.next_state_untagged(&cache, state, byte)),
            };
            state = match known.filter(|next| !next.is_unknown()) {
                Some(next) => next,
                None => {
                    effort.spend(cost)?;
                    self.dfa.next_state(&mut cache, state, byte).ok()?
                }
            };
            if state.is_tagged() {
                if state.is_match() {
                    return Some(true);
                } else if state.is_dead() {
                    return Some(false);
                } else if state.is_quit() {
                    return None;
                }
            }
        }
        let end = self.dfa.next_eoi_state(&mut cache, state).ok()?;
        Some(end.is_match())
    }
}

/// An expression in which words have the letters of ASCII where `\b` looks for their ends: as in RE2, and the others
/// cannot be found with a DFA.
fn ascii_words(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordUnicodeNegate => Look::WordAsciiNegate,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
            look => look,
        }),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(ascii_words(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(mut capture) => {
            capture.sub = Box::new(ascii_words(*capture.sub));
            Hir::capture(capture)
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(ascii_words).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(ascii_words).collect())
        }
    }
}

/// A regular expression and what is put in place of everything that matches it.
#[derive(Clone, Debug)]
pub(crate) struct BoundedReplace {
    regex: regex::Regex,
    states: u64,
    with: String,
}

impl BoundedReplace {
    /// Compiles an expression and what takes the place of its matches, in the syntax of the crate `regex`.
    ///
    /// # Errors
    /// It is no regular expression, or too large.
    pub(crate) fn new(pattern: &str, with: String, sizes: Sizes) -> Result<Self, Unusable> {
        let states = BoundedRegex::new(pattern, false, sizes)?.states();
        let regex = regex::RegexBuilder::new(pattern)
            .size_limit(sizes.compiled)
            .dfa_size_limit(sizes.kept)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => Unusable::Size,
                error => Unusable::Syntax(error.to_string()),
            })?;
        Ok(Self {
            regex,
            states,
            with,
        })
    }

    /// Replaces what matches in a text; `None` if that takes more than [`Effort`] allows, or the result is longer than any
    /// head may be.
    pub(crate) fn apply(&self, text: &str) -> Option<String> {
        /// In bytes.
        const LONGEST: usize = 8 * 1024 * 1024;
        let mut effort = Effort::MOST;
        let mut out = String::new();
        let mut end = 0;
        let mut all = self.regex.captures_iter(text);
        loop {
            // Every search may go through all states for each byte that is left.
            let rest = text.len().saturating_sub(end) as u64;
            effort.spend((rest + 1).saturating_mul(self.states))?;
            let Some(found) = all.next() else { break };
            let Some(part) = found.get(0) else { break };
            out.push_str(text.get(end..part.start())?);
            found.expand(&self.with, &mut out);
            if out.len() > LONGEST {
                return None;
            }
            end = part.end();
        }
        out.push_str(text.get(end..)?);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pattern: &str) -> BoundedRegex {
        BoundedRegex::new(pattern, true, Sizes::USUAL).unwrap()
    }

    #[test]
    fn the_same_as_the_usual_engine() {
        let texts = [
            "",
            "a",
            "ab",
            "/a/b",
            "/api/v1/x",
            "x-a",
            "é",
            "aé b",
            "a\nb",
            "A",
            "abcabc",
            "-a-",
        ];
        for pattern in [
            "",
            "a",
            "a|ab",
            "a*",
            "(a|b)+",
            "/api/v[0-9]+/[^/]+",
            "x-.*|host",
            ".",
            ".*",
            "(?s).*",
            "^a$",
            "a?b??",
            r"\w+",
            r"[^/]",
            "(?i)a",
            "(?m)^b$",
            "a.b",
            "(abc){2}",
            r"(?-u:\b)a(?-u:\b)",
        ] {
            let usual = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let part = regex::Regex::new(pattern).unwrap();
            let parts = BoundedRegex::new(pattern, false, Sizes::USUAL).unwrap();
            for text in texts {
                let mut effort = Effort::default();
                let found = whole(pattern).is_match(text, &mut effort);
                assert_eq!(found, Some(usual.is_match(text)), "{pattern} {text}");
                let found = parts.is_match(text, &mut effort);
                assert_eq!(found, Some(part.is_match(text)), "part {pattern} {text}");
            }
        }
        assert_eq!(
            whole(r"é\ba").is_match("éa", &mut Effort::default()),
            Some(true)
        );
    }

    #[test]
    fn bad_expressions() {
        for bad in ["(", "a)|(b", "[", "*"] {
            assert!(matches!(
                BoundedRegex::new(bad, true, Sizes::USUAL),
                Err(Unusable::Syntax(_))
            ));
        }
        let large = BoundedRegex::new(r"\w{100}", true, Sizes::within(64 * 1024));
        assert_eq!(large.err(), Some(Unusable::Size));
    }

    /// A text of `a` and `b` in which no long part comes twice.
    fn noise(length: usize) -> String {
        let mut state = 1u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 31 == 0 { 'a' } else { 'b' }
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn the_effort_is_bounded() {
        let slow = whole("[ab]*a[ab]{400}c");
        let mut effort = Effort::default();
        assert_eq!(slow.is_match(&noise(55_000), &mut effort), None);
        assert!(effort.is_spent());
        // Nothing is decided any more, and the next request begins anew.
        assert_eq!(whole("a").is_match("a", &mut effort), None);
        let usual = format!("{}c", noise(1000));
        let wanted = usual.as_bytes()[usual.len() - 402] == b'a';
        assert_eq!(slow.is_match(&usual, &mut Effort::default()), Some(wanted));
        // The same transitions again cost nothing.
        let plain = whole("[ab]*c?");
        let mut effort = Effort::default();
        assert_eq!(plain.is_match(&noise(8_000_000), &mut effort), Some(true));
        assert!(effort.left() > Effort::MOST.left() - 10_000);
    }

    #[test]
    fn replacements() {
        let slash = BoundedReplace::new("/+", "/".into(), Sizes::USUAL).unwrap();
        assert_eq!(slash.apply("/a//b///").unwrap(), "/a/b/");
        let group = BoundedReplace::new("^/x/(.+)$", "${1}!".into(), Sizes::USUAL).unwrap();
        assert_eq!(group.apply("/x/ab").unwrap(), "ab!");
        assert_eq!(group.apply("/y/ab").unwrap(), "/y/ab");
        let empty = BoundedReplace::new("b*", "-".into(), Sizes::USUAL).unwrap();
        let usual = regex::Regex::new("b*").unwrap();
        for text in ["", "b", "abc", "aé"] {
            assert_eq!(empty.apply(text).unwrap(), usual.replace_all(text, "-"));
        }
        let slow = BoundedReplace::new(".*[^A-Z]|[A-Z]", String::new(), Sizes::USUAL).unwrap();
        assert_eq!(slow.apply(&"A".repeat(60_000)), None);
        let long = BoundedReplace::new("a", "b".repeat(2_000_000), Sizes::USUAL).unwrap();
        assert_eq!(long.apply(&"a".repeat(100)), None);
    }
}
