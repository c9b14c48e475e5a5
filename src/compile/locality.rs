//! Localities: which endpoints are near, and how load is spread over places
//! (`loadBalancer.localityLbSetting` and `.zoneAwareLbSetting`).
//!
//! **Invariant:** near endpoints come first only when failing ones can be left (`outlierDetection`),
//! as in Istio; those of the own region always do with `zoneAwareLbSetting`.

use std::collections::BTreeMap;

use crate::resources::Labels;
use crate::resources::destination_rule::{
    LoadBalancer, LocalityFailover, LocalityLbSetting, ZoneAwareLbSetting,
};

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

/// What places go by.
#[derive(Clone, Copy)]
pub(super) enum Setting<'a> {
    /// `localityLbSetting`.
    Localities(&'a LocalityLbSetting),
    /// `zoneAwareLbSetting`.
    Zones(&'a ZoneAwareLbSetting),
}

impl<'a> Setting<'a> {
    /// A policy's own, else the mesh's.
    pub(super) fn of(balancer: Option<&'a LoadBalancer>, settings: &'a CompileSettings) -> Self {
        let zones = balancer.and_then(|balancer| balancer.zone_aware_lb_setting.as_ref());
        let own = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        match (zones, own, &settings.zone_aware_lb) {
            (Some(zones), _, _) | (None, None, Some(zones)) => Self::Zones(zones),
            (None, Some(own), _) => Self::Localities(own),
            (None, None, None) => Self::Localities(&settings.locality_lb),
        }
    }
}

/// Where each member stands, and the shares of localities; no shares when localities have none.
pub(super) fn standings(
    setting: Setting<'_>,
    fails_over: bool,
    settings: &CompileSettings,
    members: &[Member],
) -> (Vec<Standing>, Box<[u32]>) {
    let flat = || vec![Standing { used: true, ..Standing::default() }; members.len()];
    let own = Locality::parse(&settings.locality);
    let by_level = |level: &dyn Fn(&Member) -> u8| {
        let standing = |member| Standing { level: level(member), locality: 0, used: true };
        (members.iter().map(standing).collect(), Box::default())
    };
    match setting {
        Setting::Zones(zones) if zones.enabled == Some(false) => (flat(), Box::default()),
        Setting::Zones(zones) => by_level(&|member| {
            let theirs = Locality::parse(&member.locality);
            let tier = region(&zones.failover, own, theirs);
            let agreed = agreement(&zones.failover_priority, (own, &settings.labels), member);
            agreed.saturating_mul(3).saturating_add(tier)
        }),
        Setting::Localities(setting) if setting.enabled == Some(false) => (flat(), Box::default()),
        Setting::Localities(setting) if !setting.distribute.is_empty() => {
            match setting.distribute.iter().find(|rule| own.matches(&rule.from)) {
                Some(rule) => distributed(&rule.to, members),
                None => (flat(), Box::default()),
            }
        }
        Setting::Localities(_) if !fails_over => (flat(), Box::default()),
        Setting::Localities(setting) => {
            by_level(&|member| level(setting, (own, &settings.labels), member))
        }
    }
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
fn level(setting: &LocalityLbSetting, own: (Locality<'_>, &Labels), member: &Member) -> u8 {
    let theirs = Locality::parse(&member.locality);
    let agreed = agreement(&setting.failover_priority, own, member);
    match (&*setting.failover_priority, &*setting.failover) {
        ([], failover) => distance(failover, own.0, theirs),
        (_, []) => agreed,
        (_, failover) => agreed.saturating_mul(5).saturating_add(distance(failover, own.0, theirs)),
    }
}

/// How many of the labels of `failoverPriority` are left from the first on that a member does not
/// share.
fn agreement(places: &[String], (own, labels): (Locality<'_>, &Labels), member: &Member) -> u8 {
    let theirs = Locality::parse(&member.locality);
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
    u8::try_from(places.len() - agreeing).unwrap_or(u8::MAX)
}

/// 0 for the same place, 1 for the same zone, 2 for the same region; of other regions 3 for the one
/// that `failover` names, else 4.
fn distance(failover: &[LocalityFailover], own: Locality<'_>, theirs: Locality<'_>) -> u8 {
    if own.region != theirs.region {
        let rule = failover.iter().find(|rule| rule.from == own.region);
        return if rule.is_some_and(|rule| rule.to != theirs.region) { 4 } else { 3 };
    }
    match (own.zone == theirs.zone, own.sub_zone == theirs.sub_zone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// 0 for the same region, 1 for the one that `failover` names, else 2.
fn region(failover: &[LocalityFailover], own: Locality<'_>, theirs: Locality<'_>) -> u8 {
    if own.region == theirs.region {
        return 0;
    }
    let rule = failover.iter().find(|rule| rule.from == own.region);
    if rule.is_some_and(|rule| rule.to == theirs.region) { 1 } else { 2 }
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

    /// Expects each member's level, `-` for one without load, and the shares.
    fn check(written: &str, fails_over: bool, members: &[Member], levels: &[&str], shares: &[u32]) {
        let setting: LocalityLbSetting = serde_yaml::from_str(written).unwrap();
        check_setting(Setting::Localities(&setting), (fails_over, members), (levels, shares));
    }

    fn check_zones(written: &str, members: &[Member], levels: &[&str]) {
        let setting: ZoneAwareLbSetting = serde_yaml::from_str(written).unwrap();
        for fails_over in [true, false] {
            check_setting(Setting::Zones(&setting), (fails_over, members), (levels, &[]));
        }
    }

    fn check_setting(
        setting: Setting<'_>,
        (fails_over, members): (bool, &[Member]),
        (levels, shares): (&[&str], &[u32]),
    ) {
        let settings = CompileSettings {
            locality: "eu/a/1".into(),
            labels: [("version".to_owned(), "v1".to_owned())].into(),
            ..CompileSettings::default()
        };
        let (standings, localities) = standings(setting, fails_over, &settings, members);
        let shown: Vec<_> = standings
            .iter()
            .map(|s| if s.used { format!("{}.{}", s.level, s.locality) } else { "-".to_owned() })
            .collect();
        assert_eq!(shown, levels);
        assert_eq!(&*localities, shares);
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
    fn the_own_region_comes_first_and_its_zones_are_equal() {
        check_zones("{}", &places(), &["0.0", "0.0", "0.0", "2.0", "2.0"]);
        check_zones("{enabled: false}", &places(), &["0.0"; 5]);
        let failover = "{enabled: true, failover: [{from: us, to: as}, {from: eu, to: as}]}";
        check_zones(failover, &places(), &["0.0", "0.0", "0.0", "2.0", "1.0"]);
        let members = [
            member("us/a", &[("version", "v1")]),
            member("eu/a", &[("version", "v2")]),
            member("as/a", &[]),
        ];
        check_zones("{failoverPriority: [version]}", &members, &["2.0", "3.0", "5.0"]);
    }

    #[test]
    fn a_policys_setting_goes_before_the_meshs() {
        let (zones, localities) =
            (Some(ZoneAwareLbSetting::default()), LocalityLbSetting::default());
        let check = |own: &LoadBalancer, mesh: &CompileSettings, by_zones: bool| {
            let found = Setting::of(Some(own), mesh);
            assert_eq!(matches!(found, Setting::Zones(_)), by_zones);
        };
        let plain = CompileSettings::default();
        let mesh = CompileSettings { zone_aware_lb: zones.clone(), ..CompileSettings::default() };
        let own = LoadBalancer { zone_aware_lb_setting: zones, ..LoadBalancer::default() };
        check(&own, &plain, true);
        check(&LoadBalancer::default(), &plain, false);
        check(&LoadBalancer::default(), &mesh, true);
        let own = LoadBalancer { locality_lb_setting: Some(localities), ..LoadBalancer::default() };
        check(&own, &mesh, false);
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
