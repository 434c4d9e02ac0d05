//! Messages that were read on this thread, with the fields that they have: what the reader takes.

use std::{cell::RefCell, collections::BTreeMap};

type Fields = &'static [&'static str];

thread_local! {
    static SEEN: RefCell<BTreeMap<&'static str, Vec<Fields>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes a message; messages of one name may differ in their fields.
pub(super) fn note(name: &'static str, fields: Fields) {
    SEEN.with_borrow_mut(|seen| {
        let known = seen.entry(name).or_default();
        if !known.contains(&fields) {
            known.push(fields);
        }
    });
}

/// Messages since the thread began.
pub(crate) fn all() -> BTreeMap<&'static str, Vec<Fields>> {
    SEEN.with_borrow(Clone::clone)
}
