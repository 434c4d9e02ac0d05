//! Consistent hashing: the tables in which a hash finds its endpoint, built as Envoy builds them.

use std::sync::{Arc, Mutex, PoisonError};

use twox_hash::XxHash64;

use super::member::Host;
use crate::config::snapshot::{HashTable, Hashing};

/// The table of the endpoints that were fit last.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<Option<Arc<Known>>>);

#[derive(Debug)]
struct Known {
    hosts: Vec<Arc<Host>>,
    table: Table,
}

#[derive(Debug)]
enum Table {
    /// Places by their hash, each with an index of a host.
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Hashes {
    /// The endpoint for this hash among `hosts`; `again` is how many others were chosen before and are not wanted.
    pub(super) fn choose(
        &self,
        hashing: &Hashing,
        hosts: &[Arc<Host>],
        hash: u64,
        again: u32,
    ) -> Option<Arc<Host>> {
        let known = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |known: &&mut Arc<Known>| {
                let pairs = known.hosts.iter().zip(hosts);
                known.hosts.len() == hosts.len() && { pairs }
                    .all(|(one, other)| Arc::ptr_eq(one, other))
            };
            match known.as_mut().filter(same) {
                Some(known) => known.clone(),
                None => known
                    .insert(Arc::new(Known {
                        hosts: hosts.to_vec(),
                        table: Table::new(hashing, hosts),
                    }))
                    .clone(),
            }
        };
        let index = known.table.find(hash, again)?;
        known.hosts.get(index as usize).cloned()
    }
}

impl Table {
    fn new(hashing: &Hashing, hosts: &[Arc<Host>]) -> Self {
        let total: f64 = hosts.iter().map(|host| f64::from(host.weight)).sum();
        let hosts = (0_u32..).zip(hosts).map(|(index, host)| {
            let key = host.hash_key(hashing.by_hostname);
            (index, key, f64::from(host.weight) / total)
        });
        match hashing.table {
            HashTable::Ring { least, most } => Self::Ring(ring(hosts.collect(), least, most)),
            HashTable::Maglev(size) => Self::Maglev(maglev(hosts.collect(), size)),
        }
    }

    fn find(&self, hash: u64, again: u32) -> Option<u32> {
        match self {
            Self::Ring(places) => {
                let at = places.partition_point(|(place, _)| *place < hash);
                let at = if at == places.len() { 0 } else { at };
                let at = (at + again as usize) % places.len().max(1);
                places.get(at).map(|(_, host)| *host)
            }
            Self::Maglev(places) => {
                let hash = match again {
                    0 => hash,
                    again => hash ^ (u64::MAX - u64::from(again) + 1),
                };
                let at = hash % (places.len() as u64).max(1);
                places.get(usize::try_from(at).ok()?).copied()
            }
        }
    }
}

/// Places of a ring: for each host as many as its part of all weights asks for.
fn ring(hosts: Vec<(u32, String, f64)>, least: u64, most: u64) -> Vec<(u64, u32)> {
    let lightest = hosts.iter().map(|(.., part)| *part).fold(1.0, f64::min);
    let scale = ((lightest * least as f64).ceil() / lightest).min(most as f64);
    let mut places = Vec::with_capacity(scale.ceil() as usize);
    // Parts need not be whole, so that their sums count.
    let mut wanted = 0.0;
    for (index, key, part) in hosts {
        wanted += scale * part;
        for number in 0.. {
            if places.len() as f64 >= wanted {
                break;
            }
            let name = format!("{key}_{number}");
            places.push((XxHash64::oneshot(0, name.as_bytes()), index));
        }
    }
    places.sort_by_key(|(hash, _)| *hash);
    places
}

/// The table of "Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4; `size` is a prime.
fn maglev(mut hosts: Vec<(u32, String, f64)>, size: u64) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    // A host without places of its own would be looked at for ever.
    hosts.retain(|(.., part)| *part > 0.0);
    hosts.sort_by(|one, other| one.1.cmp(&other.1));
    let heaviest = hosts.iter().map(|(.., part)| *part).fold(0.0, f64::max);
    let mut entries: Vec<_> = hosts
        .into_iter()
        .map(|(index, key, part)| {
            let offset = XxHash64::oneshot(0, key.as_bytes()) % size;
            let skip = XxHash64::oneshot(1, key.as_bytes()) % (size - 1).max(1) + 1;
            (index, offset, skip, part, 0.0)
        })
        .collect();
    let mut places = vec![FREE; usize::try_from(size).unwrap_or_default()];
    let mut free = places.len();
    let mut turn = 0.0;
    while free > 0 && !entries.is_empty() {
        turn += 1.0;
        for (index, place, skip, part, target) in &mut entries {
            // The heaviest host has a place in each turn, one with half of its weight in every second one.
            if free == 0 || turn * *part < *target {
                continue;
            }
            *target += heaviest;
            while let Some(taken) = places.get_mut(*place as usize) {
                *place = (*place + *skip) % size;
                if *taken == FREE {
                    *taken = *index;
                    free -= 1;
                    break;
                }
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(parts: &[f64]) -> Vec<(u32, String, f64)> {
        let parts = (0_u32..).zip(parts);
        parts
            .map(|(index, part)| (index, format!("10.0.0.{index}:80"), *part))
            .collect()
    }

    #[test]
    fn weights_are_kept() {
        let count = |places: Vec<u32>, of: u32| places.iter().filter(|host| **host == of).count();
        let ring = ring(hosts(&[0.75, 0.25]), 1024, HashTable::MOST_PLACES);
        assert_eq!(ring.len(), 1024);
        assert!(ring.is_sorted_by_key(|(hash, _)| *hash));
        assert_eq!(
            count(ring.into_iter().map(|(_, host)| host).collect(), 0),
            768
        );
        let table = maglev(hosts(&[0.75, 0.25]), 1021);
        assert_eq!(table.len(), 1021);
        assert_eq!(count(table.clone(), 0) + count(table.clone(), 1), 1021);
        assert!((764..=768).contains(&count(table, 0)));
    }

    #[test]
    fn most_keys_stay_when_a_host_goes() {
        for table in [
            |hosts| Table::Ring(ring(hosts, 1024, HashTable::MOST_PLACES)),
            |hosts| Table::Maglev(maglev(hosts, 65_537)),
        ] {
            let all = table(hosts(&[0.25; 4]));
            let fewer = table(hosts(&[1.0 / 3.0; 3]));
            let keys = (0..1000_u64).map(|key| XxHash64::oneshot(7, &key.to_le_bytes()));
            let moved = keys
                .filter(|key| {
                    let (before, after) = (all.find(*key, 0), fewer.find(*key, 0));
                    before != Some(3) && before != after
                })
                .count();
            // As in Envoy, a ring of fewer hosts has more places of each, which take some keys. By the remainder of a division
            // half of them would move.
            assert!(moved < 200, "{moved}");
        }
    }

    #[test]
    fn a_table_of_none() {
        let ring = Table::Ring(ring(Vec::new(), 1024, 1024));
        let maglev = Table::Maglev(maglev(Vec::new(), 5));
        for table in [&ring, &maglev] {
            for again in 0..3 {
                assert!(
                    table
                        .find(u64::MAX, again)
                        .is_none_or(|host| host == u32::MAX)
                );
            }
        }
    }
}
