//! `docs/istio-fields.md` says what each field does, and the compiler is who says it.
//!
//! `worlds/*.yaml` write every field of every kind. Each is taken out once: when what is compiled
//! changes, the field is honoured; when it does not, a finding has to have said so.
//! `UPDATE_GOLDEN=1 cargo test --test fields` writes the page.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

#[path = "../../src/tls/pki.rs"]
#[allow(dead_code, reason = "black-box tests share this file")]
mod pki;
mod schema;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use portcullis::diag::Severity;
use portcullis::resources::{
    AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, RequestAuthentication,
    ServiceEntry, VirtualService, WorkloadEntry,
};

use world::{Effect, Told, World};

/// A kind with the plain fields that its type reads.
type Kind = (&'static str, Vec<String>);

fn kinds() -> Vec<Kind> {
    vec![
        ("Gateway", schema::fields::<Gateway>()),
        ("VirtualService", schema::fields::<VirtualService>()),
        ("DestinationRule", schema::fields::<DestinationRule>()),
        ("ServiceEntry", schema::fields::<ServiceEntry>()),
        ("WorkloadEntry", schema::fields::<WorkloadEntry>()),
        ("RequestAuthentication", schema::fields::<RequestAuthentication>()),
        ("AuthorizationPolicy", schema::fields::<AuthorizationPolicy>()),
        ("PeerAuthentication", schema::fields::<PeerAuthentication>()),
    ]
}

/// What was seen of a field in all worlds.
#[derive(Default)]
struct Seen {
    honoured: bool,
    told: BTreeSet<Told>,
}

/// What is seen of each field of each kind. Worlds are looked at side by side.
fn observe(kinds: &[Kind]) -> BTreeMap<(String, String), Seen> {
    let mut all: BTreeMap<(String, String), Seen> = BTreeMap::new();
    let looked_at: Vec<_> = std::thread::scope(|scope| {
        let look = |world: World| move || observe_in(&world, kinds);
        let threads: Vec<_> = World::all().into_iter().map(|w| scope.spawn(look(w))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (field, seen) in looked_at.into_iter().flatten() {
        let known = all.entry(field).or_default();
        known.honoured |= seen.honoured;
        known.told.extend(seen.told);
    }
    all
}

fn observe_in(world: &World, kinds: &[Kind]) -> BTreeMap<(String, String), Seen> {
    let mut all: BTreeMap<(String, String), Seen> = BTreeMap::new();
    for field in world.fields(kinds) {
        let seen = all.entry((field.kind.clone(), field.pattern.clone())).or_default();
        let told = world.told(&field);
        let refused = told.iter().any(|told| told.severity == Severity::Error);
        let honoured = || match world.effect(&field) {
            Effect::None => false,
            // What is told may be needed for no more than that its resource is taken.
            Effect::Broken => told.is_empty(),
            Effect::Other => true,
        };
        seen.honoured = seen.honoured || (!refused && honoured());
        seen.told.extend(told);
    }
    all
}

const HEAD: &str = "\
# Istio's fields

What each field does at this gateway: **honoured**; **warned**, when it has no effect and `check` says \
so; **noted**, when it has none and there is nothing to correct; **refused**, when it is an error. The \
compiler says so itself: a test takes each field out of a configuration and looks whether what is \
compiled changes. A honoured field with a remark has values that are told of.

`[]` is an item of a list, `*` a key. What a `trafficPolicy` says holds alike for a subset and for a \
port, unless these have a row of their own. `UPDATE_GOLDEN=1 cargo test --test fields` writes this page.
";

/// A field's row: what it is here, and why.
fn row(seen: &Seen) -> Option<(&'static str, String)> {
    let status = match seen.told.iter().map(|told| told.severity).min() {
        _ if seen.honoured => "honoured",
        Some(Severity::Error) => "refused",
        Some(Severity::Warning) => "warned",
        Some(Severity::Info) => "noted",
        None => return None,
    };
    let why: Vec<_> = seen.told.iter().map(|told| told.text.replace('|', "\\|")).collect();
    Some((status, why.join("; ")))
}

/// The field of a whole service's policy that one of a port or subset stands beside.
fn without_place(field: &str) -> String {
    field.replace("subsets[].trafficPolicy", "trafficPolicy").replace(".portLevelSettings[]", "")
}

#[test]
fn every_field_takes_effect_or_is_told_and_the_page_says_which() {
    let kinds = kinds();
    let observed = observe(&kinds);
    let mut page = String::from(HEAD);
    let mut silent = Vec::new();
    for (kind, fields) in &kinds {
        write!(page, "\n## {kind}\n\n| field | here | why |\n|---|---|---|\n").unwrap();
        let seen = |field: String| observed.get(&((*kind).to_owned(), field)).map(row);
        for field in fields {
            let found = seen(field.clone());
            let whole = without_place(field);
            match &found {
                None => silent.push(format!("{kind} {field} is written in no world")),
                Some(None) => {
                    silent.push(format!("{kind} {field}: no effect, and nothing says so"));
                }
                Some(_) if whole != *field && seen(whole) == found => {}
                Some(Some((status, why))) => {
                    let why = if why.is_empty() { String::new() } else { format!(" {why}") };
                    writeln!(page, "| `{field}` | {status} |{why} |").unwrap();
                }
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/istio-fields.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "run UPDATE_GOLDEN=1 cargo test --test fields");
}
