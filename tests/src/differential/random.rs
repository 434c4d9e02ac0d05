//! A source of choices that gives the same ones for the same seed, on every machine and in every version.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The source for one scenario: choices for another index have nothing to do with these.
    #[must_use]
    pub fn of(seed: u64, index: u64) -> Self {
        let mut outer = Self(seed);
        let seed = outer.next();
        let mut inner = Self(seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self(inner.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }

    /// True that often, in percent.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of the items, each as likely as the others.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// One of the items, each as likely as its weight says.
    ///
    /// # Panics
    /// If no item has a weight.
    pub fn weighted<T: Copy>(&mut self, items: &[(usize, T)]) -> T {
        let mut left = self.below(items.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in items {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *item,
            }
        }
        unreachable!("no item has a weight")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_index_give_the_same_choices() {
        let choices = |seed, index| {
            let mut random = Random::of(seed, index);
            [(); 8].map(|()| random.below(1000))
        };
        assert_eq!(choices(7, 3), choices(7, 3));
        assert_ne!(choices(7, 3), choices(7, 4));
        assert_ne!(choices(7, 3), choices(8, 3));
        // Written down, since a seed in a report must mean the same for whoever runs it later.
        assert_eq!(choices(1, 0), [595, 328, 933, 673, 853, 782, 70, 278]);
    }

    #[test]
    fn weights_are_kept() {
        let mut random = Random::of(0, 0);
        let often = (0..1000).filter(|_| random.weighted(&[(9, true), (1, false)]));
        let often = often.count();
        assert!((850..950).contains(&often), "{often}");
        assert!((0..100).all(|_| random.weighted(&[(0, false), (1, true)])));
    }
}
