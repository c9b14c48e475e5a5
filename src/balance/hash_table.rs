//! Tables that keep a hash on its endpoint while others come and go: ring hash and Maglev.
//!
//! **Invariant:** equal endpoints give equal tables, in every worker and after every restart.

use std::fmt::Write as _;

use twox_hash::XxHash64;

use crate::base::limit;

/// An endpoint as a table sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name; what its places are derived from.
    pub name: &'a str,
    /// Its share, above 0.
    pub weight: f64,
}

/// A table over a list of endpoints.
#[derive(Debug)]
pub enum HashTable {
    /// Places on a ring, in order.
    Ring(Box<[(u64, u32)]>),
    /// Slots.
    Maglev(Box<[u32]>),
}

impl HashTable {
    /// A ring on which the lightest endpoint has a quarter of `least` places, whatever the number of
    /// endpoints, and others have more by their weight: four or more have `least` together
    /// (`consistentHash.ringHash`), and when one leaves, its keys alone move.
    pub fn ring(entries: &[Entry<'_>], least: u32) -> Self {
        let lightest = entries.iter().map(|entry| entry.weight).fold(f64::MAX, f64::min);
        let total: f64 = entries.iter().map(|entry| entry.weight / lightest).sum();
        let most = f64::from(limit::HASH_TABLE_ENTRIES) / total;
        let unit = f64::from(least.div_ceil(4)).min(most) / lightest;
        let mut ring = Vec::new();
        let mut key = String::new();
        for (index, entry) in (0_u32..).zip(entries) {
            let mut place = 0_u32;
            while f64::from(place) < entry.weight * unit {
                key.clear();
                let _ = write!(key, "{}_{place}", entry.name);
                ring.push((XxHash64::oneshot(0, key.as_bytes()), index));
                place += 1;
            }
        }
        ring.sort_unstable();
        Self::Ring(ring.into())
    }

    /// A table of `size` slots, a prime, filled by the endpoints in turn from their own preferences
    /// (Maglev, section 3.4; `consistentHash.maglev`).
    pub fn maglev(entries: &[Entry<'_>], size: u32) -> Self {
        const FREE: u32 = u32::MAX;
        struct Preference {
            next: u64,
            skip: u64,
            due: f64,
        }
        if entries.is_empty() {
            return Self::Maglev(Box::default());
        }
        let size = u64::from(size.max(1));
        let heaviest = entries.iter().map(|entry| entry.weight).fold(0.0, f64::max);
        let mut preferences: Vec<_> = entries
            .iter()
            .map(|entry| Preference {
                next: XxHash64::oneshot(0, entry.name.as_bytes()) % size,
                skip: XxHash64::oneshot(1, entry.name.as_bytes()) % (size - 1).max(1) + 1,
                due: 0.0,
            })
            .collect();
        let mut table = vec![FREE; usize::try_from(size).unwrap_or(0)];
        let mut free = table.len();
        let mut round = 0.0;
        while free > 0 {
            round += 1.0;
            for ((index, entry), preference) in (0_u32..).zip(entries).zip(&mut preferences) {
                if free == 0 || round * entry.weight < preference.due {
                    continue;
                }
                preference.due += heaviest;
                loop {
                    let place = usize::try_from(preference.next).unwrap_or(0);
                    preference.next = (preference.next + preference.skip) % size;
                    if let Some(slot) = table.get_mut(place).filter(|slot| **slot == FREE) {
                        *slot = index;
                        free -= 1;
                        break;
                    }
                }
            }
        }
        Self::Maglev(table.into())
    }

    /// The endpoint of a hash.
    pub fn get(&self, hash: u64) -> Option<usize> {
        let index = match self {
            Self::Ring(ring) => {
                let place = ring.partition_point(|(at, _)| *at < hash);
                ring.get(place).or_else(|| ring.first()).map(|(_, index)| *index)
            }
            Self::Maglev(table) => {
                let size = u64::try_from(table.len()).unwrap_or(1).max(1);
                table.get(usize::try_from(hash % size).unwrap_or(0)).copied()
            }
        };
        index.and_then(|index| usize::try_from(index).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: u64 = 4_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:80")).collect()
    }

    fn entries<'a>(names: &'a [String], weights: &[u32]) -> Vec<Entry<'a>> {
        let weight = |n: usize| f64::from(weights.get(n).copied().unwrap_or(1));
        let entry = |(n, name): (usize, &'a String)| Entry { name, weight: weight(n) };
        names.iter().enumerate().map(entry).collect()
    }

    fn homes(table: &HashTable, names: &[String]) -> Vec<String> {
        let home = |key: u64| {
            let hash = XxHash64::oneshot(7, &key.to_be_bytes());
            names[table.get(hash).unwrap()].clone()
        };
        (0..KEYS).map(home).collect()
    }

    fn tables(entries: &[Entry<'_>]) -> [HashTable; 2] {
        [HashTable::ring(entries, 4096), HashTable::maglev(entries, 5003)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// When one of N endpoints leaves, about 1/N of the keys move: all of its own, and with Maglev
        /// few others.
        #[test]
        fn few_keys_move_when_an_endpoint_leaves(count in 2_usize..20, gone in 0_usize..20) {
            let all = names(count);
            let gone = &all[gone % count];
            let rest: Vec<String> = all.iter().filter(|name| *name != gone).cloned().collect();
            let before = tables(&entries(&all, &[]));
            let after = tables(&entries(&rest, &[]));
            for (number, (before, after)) in before.iter().zip(&after).enumerate() {
                let (before, after) = (homes(before, &all), homes(after, &rest));
                let own = before.iter().filter(|home| *home == gone).count();
                let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
                let others = moved - own;
                let allowed = if number == 0 { 0 } else { before.len() / 10 };
                prop_assert!(others <= allowed, "{number}: {others} of {}", before.len());
                let fair = before.len() / count;
                prop_assert!(own < fair * 2, "{own} of {fair}");
            }
        }

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_u32..5, 2..8)) {
            let all = names(weights.len());
            let total: u32 = weights.iter().sum();
            for table in tables(&entries(&all, &weights)) {
                let homes = homes(&table, &all);
                for (name, weight) in all.iter().zip(&weights) {
                    let got = homes.iter().filter(|home| *home == name).count() as u64;
                    let fair = u64::from(*weight) * KEYS / u64::from(total);
                    let near = got > fair / 2 && got < fair * 8 / 5;
                    prop_assert!(near, "{got} of {fair}: {weights:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_at_home_in_an_empty_table() {
        assert_eq!(HashTable::ring(&[], 1024).get(1), None);
        assert_eq!(HashTable::maglev(&[], 7).get(1), None);
    }
}
