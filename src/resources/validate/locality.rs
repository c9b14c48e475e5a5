//! Rules for `loadBalancer.localityLbSetting`.
//!
//! **Invariant**: as in [`super::destination_rule`].

use std::collections::BTreeSet;

use super::Findings;
use super::destination_rule::places_of;
use crate::resources::destination_rule::LocalityLbSetting;

pub(super) fn check_locality(
    locality: &LocalityLbSetting,
    path: &str,
    findings: &mut Findings<'_>,
) {
    let distributes = !locality.distribute.is_empty();
    let both = distributes && !locality.failover.is_empty();
    findings.error_if(both, path, "distribute and failover exclude each other");
    let priority = format!("{path}.failoverPriority");
    let idle = distributes && !locality.failover_priority.is_empty();
    findings.unworkable_if(idle, &priority, "distribute alone counts: remove one of them");
    if !locality.failover.is_empty() {
        for (index, label) in places_of(&locality.failover_priority) {
            let message = format!("failover orders regions already: \"{label}\" excludes it");
            findings.error(&format!("{priority}[{index}]"), message);
        }
    }
    let mut from = Seen::default();
    for (index, rule) in locality.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{index}]");
        if let Err(message) = from.add(&rule.from) {
            findings.error(&format!("{path}.from"), format!("\"{}\" {message}", rule.from));
        }
        let path = format!("{path}.to");
        let sum: u64 = rule.to.values().map(|weight| u64::from(*weight)).sum();
        findings.error_if(sum != 100, &path, "the weights must add up to 100");
        let zero = rule.to.values().any(|weight| *weight == 0);
        findings.error_if(zero, &path, "a weight of 0 says nothing: remove it");
        let mut to = Seen::default();
        // They have no order of their own: wildcards stand for the rest.
        let (rest, named): (Vec<_>, Vec<_>) = rule.to.keys().partition(|place| place.contains('*'));
        for place in named.into_iter().chain(rest) {
            if let Err(message) = to.add(place) {
                findings.error(&format!("{path}.{place}"), format!("\"{place}\" {message}"));
            }
        }
    }
}

/// Places of a list so far: `region`, `region/zone` or `region/zone/subzone`, or a `*` in the place of the last.
#[derive(Default)]
struct Seen<'a> {
    /// As they were written.
    places: BTreeSet<&'a str>,
    /// What is above each of them.
    above: BTreeSet<&'a str>,
}

impl<'a> Seen<'a> {
    /// Adds a place that none before it takes.
    fn add(&mut self, place: &'a str) -> Result<(), &'static str> {
        let stars = place.bytes().filter(|byte| *byte == b'*').count();
        if stars > 1 || (stars == 1 && !place.ends_with('*')) {
            return Err("may have one \"*\", at its end");
        }
        if place.splitn(3, '/').any(str::is_empty) {
            return Err("has an empty region, zone or subzone");
        }
        // Without its subzone, then without its zone.
        let ends = place.match_indices('/').map(|(at, _)| at).take(2);
        let above: Vec<&str> = ends.filter_map(|end| place.get(..end)).collect();
        let rest = |above: &&str| self.places.contains(format!("{above}/*").as_str());
        let taken = self.places.contains(place)
            || self.places.contains("*")
            || self.above.contains(place)
            || above.iter().any(|above| self.places.contains(above) || rest(above));
        if taken {
            return Err("overlaps with one before it");
        }
        self.places.insert(place);
        self.above.extend(above);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(places: &[&str], expected: Result<(), &str>) {
        let mut seen = Seen::default();
        let found = places.iter().try_for_each(|place| seen.add(place));
        assert_eq!(found, expected, "{places:?}");
    }

    #[test]
    fn places_overlap_as_in_istio() {
        let overlaps = Err("overlaps with one before it");
        check(&["eu", "us/a", "us/b/1", "us/b/2", "us/b/*", "us/*", "*"], Ok(()));
        for places in [
            ["eu", "eu"],
            ["*", "eu"],
            ["eu", "eu/a"],
            ["eu/a", "eu"],
            ["eu/*", "eu/a"],
            ["eu/*", "eu/a/1"],
            ["eu/a", "eu/a/1"],
            ["eu/a/1", "eu/a"],
            ["eu/a/*", "eu/a/1"],
        ] {
            check(&places, overlaps);
        }
        check(&["e*u"], Err("may have one \"*\", at its end"));
        check(&["*/*"], Err("may have one \"*\", at its end"));
        for place in ["", "eu/", "/a", "eu//1"] {
            check(&[place], Err("has an empty region, zone or subzone"));
        }
    }
}
