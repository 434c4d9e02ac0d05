//! `forward_rules`: which headers the processor gets to see.

use std::cell::RefCell;

use crate::{
    config::{ForwardRules, StringMatcher},
    text::pattern::Effort,
    wire::encode::Fields,
};

/// A header block as the rules let it through. What is forwarded to the peer does not change.
pub(crate) struct Forwarded<'a, F> {
    fields: &'a F,
    rules: &'a ForwardRules,
    /// Verdicts of the first walk, so that the second one matches nothing again.
    verdicts: RefCell<Vec<bool>>,
}

impl<'a, F: Fields> Forwarded<'a, F> {
    pub(crate) fn new(fields: &'a F, rules: &'a ForwardRules) -> Self {
        Self {
            fields,
            rules,
            verdicts: RefCell::default(),
        }
    }
}

impl<F: Fields> Fields for Forwarded<'_, F> {
    fn each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        if self.rules.allowed.is_empty() && self.rules.disallowed.is_empty() {
            return self.fields.each(f);
        }
        let mut verdicts = self.verdicts.borrow_mut();
        let mut effort = Effort::default();
        let mut index = 0;
        self.fields.each(|name, value| {
            let known = verdicts.get(index).copied();
            let pass = known.unwrap_or_else(|| {
                let pass = self.rules.forward(name, &mut effort);
                verdicts.push(pass);
                pass
            });
            index += 1;
            if pass {
                f(name, value);
            }
        });
    }
}

impl ForwardRules {
    /// Tells if a header of this lower-case name is sent. The disallowed list is looked at first; an
    /// empty allowed list allows all. What cannot be told within the effort is not sent.
    fn forward(&self, name: &[u8], effort: &mut Effort) -> bool {
        let Ok(name) = std::str::from_utf8(name) else {
            return false;
        };
        let mut any = |matchers: &[StringMatcher]| {
            let mut matches = matchers.iter().map(|m| m.try_matches(name, effort));
            matches
                .find(|matches| *matches != Some(false))
                .unwrap_or(Some(false))
        };
        any(&self.disallowed) == Some(false)
            && (self.allowed.is_empty() || any(&self.allowed) == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use crate::{FilterConfig, text::pattern::Effort};

    fn rules(json: &str) -> crate::config::ForwardRules {
        let text = format!(
            r#"{{"grpc_service": {{"envoy_grpc": {{"cluster_name": "c"}}}}, "forward_rules": {json}}}"#
        );
        serde_json::from_str::<FilterConfig>(&text)
            .unwrap()
            .forward_rules
    }

    #[test]
    fn disallowed_before_allowed() {
        let rules = rules(
            r#"{"allowed_headers": {"patterns": [{"prefix": "x-"}, {"exact": ":path"}]},
                "disallowed_headers": {"patterns": [{"exact": "X-Secret", "ignore_case": true}]}}"#,
        );
        assert!(rules.forward(b"x-a", &mut Effort::default()));
        assert!(rules.forward(b":path", &mut Effort::default()));
        assert!(!rules.forward(b":method", &mut Effort::default()));
        assert!(!rules.forward(b"x-secret", &mut Effort::default()));
    }
}
