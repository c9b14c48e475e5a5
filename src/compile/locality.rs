//! Localities: which endpoints are near, and how load is spread over places
//! (`loadBalancer.localityLbSetting`).
//!
//! **Invariant:** near endpoints come first only when failing ones can be left (`outlierDetection`),
//! as in Istio.

use std::collections::BTreeMap;

use crate::resources::Labels;
use crate::resources::destination_rule::LocalityLbSetting;

use super::services::Member;
use super::settings::CompileSettings;

/// Region, zone and sub-zone; empty where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Locality<'a> {
    region: &'a str,
    zone: &'a str,
    sub_zone: &'a str,
}

/// Where a member stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Priority, from 0.
    pub(super) level: u8,
    /// Index into the shares of localities.
    pub(super) locality: u16,
    /// Whether it gets load at all.
    pub(super) used: bool,
}

/// Where each member stands, and the shares of localities; no shares when localities have none.
pub(super) fn standings(
    setting: Option<&LocalityLbSetting>,
    fails_over: bool,
    settings: &CompileSettings,
    members: &[Member],
) -> (Vec<Standing>, Box<[u32]>) {
    let flat = || vec![Standing { used: true, ..Standing::default() }; members.len()];
    let setting = setting.unwrap_or(&settings.locality_lb);
    let own = Locality::parse(&settings.locality);
    if setting.enabled == Some(false) {
        return (flat(), Box::default());
    }
    if !setting.distribute.is_empty() {
        let rule = setting.distribute.iter().find(|rule| own.matches(&rule.from));
        return match rule {
            Some(rule) => distributed(&rule.to, members),
            None => (flat(), Box::default()),
        };
    }
    if !fails_over {
        return (flat(), Box::default());
    }
    let standing = |member: &Member| Standing {
        level: level(setting, own, &settings.labels, member),
        locality: 0,
        used: true,
    };
    (members.iter().map(standing).collect(), Box::default())
}

/// A share is the share of every locality its pattern fits, together; localities that none fits get
/// nothing.
fn distributed(to: &BTreeMap<String, u32>, members: &[Member]) -> (Vec<Standing>, Box<[u32]>) {
    let place = |member: &Member| {
        let locality = Locality::parse(&member.locality);
        to.keys().position(|pattern| locality.matches(pattern))
    };
    let standing = |member: &Member| match place(member).and_then(|at| u16::try_from(at).ok()) {
        Some(locality) => Standing { level: 0, locality, used: true },
        None => Standing::default(),
    };
    (members.iter().map(standing).collect(), to.values().copied().collect())
}

/// The priority of a member, before gaps are closed.
fn level(setting: &LocalityLbSetting, own: Locality<'_>, labels: &Labels, member: &Member) -> u8 {
    let theirs = Locality::parse(&member.locality);
    let places = &setting.failover_priority;
    if places.is_empty() {
        return distance(setting, own, theirs);
    }
    let value = |labels: &Labels, locality: Locality<'_>, name: &str| {
        let known = labels.get(name).cloned();
        known.or_else(|| locality.label(name).map(str::to_owned))
    };
    let agrees = |written: &String| {
        let (name, wanted) = match written.split_once('=') {
            Some((name, wanted)) => (name, Some(wanted.to_owned())),
            None => (written.as_str(), value(labels, own, written)),
        };
        wanted.is_some() && value(&member.labels, theirs, name) == wanted
    };
    let agreeing = places.iter().take_while(|place| agrees(place)).count();
    let level = u8::try_from(places.len() - agreeing).unwrap_or(u8::MAX);
    if setting.failover.is_empty() {
        return level;
    }
    level.saturating_mul(5).saturating_add(distance(setting, own, theirs))
}

/// 0 for the same place, 1 for the same zone, 2 for the same region; of other regions 3 for the one
/// that `failover` names, else 4.
fn distance(setting: &LocalityLbSetting, own: Locality<'_>, theirs: Locality<'_>) -> u8 {
    if own.region != theirs.region {
        let rule = setting.failover.iter().find(|rule| rule.from == own.region);
        return if rule.is_some_and(|rule| rule.to != theirs.region) { 4 } else { 3 };
    }
    match (own.zone == theirs.zone, own.sub_zone == theirs.sub_zone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

impl<'a> Locality<'a> {
    /// Reads `region/zone/subzone`.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), sub_zone: next() }
    }

    /// Whether a pattern fits: later parts may be missing, any may be `*`.
    fn matches(self, pattern: &str) -> bool {
        let pattern = Locality::parse(pattern);
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == "*" || wanted == is;
        (pattern.region == "*" || pattern.region == self.region)
            && fits(pattern.zone, self.zone)
            && fits(pattern.sub_zone, self.sub_zone)
    }

    /// The value of a label that tells a place.
    fn label(self, name: &str) -> Option<&'a str> {
        let value = match name {
            "topology.kubernetes.io/region" => self.region,
            "topology.kubernetes.io/zone" => self.zone,
            "topology.istio.io/subzone" => self.sub_zone,
            _ => return None,
        };
        (!value.is_empty()).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(locality: &str, labels: &[(&str, &str)]) -> Member {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Member { locality: locality.to_owned(), labels, ..Member::example() }
    }

    fn setting(yaml: &str) -> LocalityLbSetting {
        serde_yaml::from_str(yaml).unwrap()
    }

    /// Expects each member's level, `-` for one without load, and the shares.
    fn check(written: &str, fails_over: bool, members: &[Member], levels: &[&str], shares: &[u32]) {
        let settings = CompileSettings {
            locality: "eu/a/1".into(),
            labels: [("version".to_owned(), "v1".to_owned())].into(),
            ..CompileSettings::default()
        };
        let (standings, localities) =
            standings(Some(&setting(written)), fails_over, &settings, members);
        let shown: Vec<_> = standings
            .iter()
            .map(|s| if s.used { format!("{}.{}", s.level, s.locality) } else { "-".to_owned() })
            .collect();
        assert_eq!(shown, levels, "{written}");
        assert_eq!(&*localities, shares, "{written}");
    }

    fn places() -> Vec<Member> {
        ["eu/a/1", "eu/a/2", "eu/b", "us/a", "as/x"].map(|place| member(place, &[])).into()
    }

    #[test]
    fn near_ones_come_first_when_failing_ones_can_be_left() {
        check("{}", true, &places(), &["0.0", "1.0", "2.0", "3.0", "3.0"], &[]);
        check("{}", false, &places(), &["0.0"; 5], &[]);
        check("{enabled: false}", true, &places(), &["0.0"; 5], &[]);
        let failover = "{failover: [{from: eu, to: us}]}";
        check(failover, true, &places(), &["0.0", "1.0", "2.0", "3.0", "4.0"], &[]);
    }

    #[test]
    fn labels_can_say_who_comes_first() {
        let members = [
            member("eu/a", &[("version", "v1")]),
            member("us/a", &[("version", "v1")]),
            member("eu/a", &[("version", "v2")]),
        ];
        let by = |list: &str| format!("{{failoverPriority: [{list}]}}");
        let region = "version, topology.kubernetes.io/region";
        check(&by(region), true, &members, &["0.0", "1.0", "2.0"], &[]);
        check(&by("version=v2"), true, &members, &["1.0", "1.0", "0.0"], &[]);
        check(&by("unknown"), true, &members, &["1.0"; 3], &[]);
    }

    #[test]
    fn load_is_distributed_as_written() {
        let to =
            "{distribute: [{from: us/*, to: {us: 100}}, {from: eu/*, to: {eu/a/*: 80, us: 20}}]}";
        check(to, false, &places(), &["0.0", "0.0", "-", "0.1", "-"], &[80, 20]);
        check("{distribute: [{from: as, to: {as: 100}}]}", true, &places(), &["0.0"; 5], &[]);
    }
}
