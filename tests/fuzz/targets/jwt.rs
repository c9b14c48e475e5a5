//! Tokens of a rule with one key of every kind.

use std::sync::{Arc, OnceLock};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use portcullis::auth::jwt::{
    Audiences, Authenticator, ForwardToken, IssuerKeys, JwtRule, KeySet, KeyState, Locations,
    RequestTokens, TokenCache, Verdict,
};
use portcullis::base::id::{Origin, ResourceId};
use serde_json::{Value, json};

use super::{edited, fixture};

const NOW: i64 = 1_800_000_000;

/// Genuine tokens, and who judges them.
struct World {
    tokens: Vec<String>,
    authenticator: Authenticator,
}

thread_local! {
    static CACHE: TokenCache = TokenCache::default();
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let issuer = fixture::issuer();
        let kinds = ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"];
        let keys: Vec<Value> =
            ["RS256", "ES256", "ES384", "ES512", "EdDSA"].map(|kind| issuer.jwk(kind)).into();
        let claims =
            json!({"iss": "https://issuer", "sub": "alice", "exp": NOW + 60, "aud": ["shop"]});
        let token = |kind: &str| issuer.token(&json!({"alg": kind}), &claims);
        World {
            tokens: kinds.map(token).into(),
            authenticator: authenticator(json!({ "keys": keys }).to_string().as_bytes()).unwrap(),
        }
    })
}

/// A rule with a fetched key set; nothing when it cannot be used.
pub fn authenticator(keys: &[u8]) -> Option<Authenticator> {
    let keys = KeyState::Ready(KeySet::parse_published(keys).ok()?);
    Some(Authenticator::new(vec![JwtRule {
        issuer: Some("https://issuer".into()),
        audiences: Audiences::default(),
        locations: Locations::default(),
        forward: ForwardToken::Keep,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Arc::new([]),
        keys: Arc::new(IssuerKeys::new(keys)),
        fetched: true,
        origin: origin(),
    }]))
}

fn origin() -> Origin {
    let resource = ResourceId::new("RequestAuthentication", "edge", "tokens");
    Origin { resource, file: "a.yaml".into(), line: 1 }
}

/// Whether a token is taken.
pub fn verifies(authenticator: &Authenticator, token: &[u8], cache: &TokenCache) -> bool {
    let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else { return false };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let request = RequestTokens { headers: &headers, path_and_query: "/" };
    matches!(authenticator.authenticate(request, NOW, cache), Ok(Verdict::Verified(_)))
}

/// A byte that chooses a token, then changes of it; or a token as it stands, after a byte that is none.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = world();
    let genuine = (0_u8..).zip(&world.tokens).map(|(which, _)| vec![which]);
    let changed =
        (0_u8..).zip(&world.tokens).map(|(which, _)| vec![which, 0, 40, b'A', 1, 0, b'.']);
    let whole = world.tokens.iter().map(|token| [b"~", token.as_bytes()].concat());
    let unsigned = ["eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3VlciJ9.", "..", "a.b.c"];
    let unsigned = unsigned.map(|token| format!("~{token}").into_bytes());
    genuine.chain(changed).chain(whole).chain(unsigned).collect()
}

pub fn run(data: &[u8]) {
    let world = world();
    let Some((which, rest)) = data.split_first() else { return };
    let token = match world.tokens.get(usize::from(*which)) {
        Some(token) => edited(token.as_bytes(), rest),
        None => rest.to_vec(),
    };
    // As in Envoy, a token begins with what can be of one, and goes on to the end.
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let sent: Vec<u8> = token.iter().skip_while(|byte| !is_part(byte)).copied().collect();
    // What is no header's value is never sent.
    let sendable = HeaderValue::from_bytes(&token).is_ok();
    let genuine = sendable && world.tokens.iter().any(|own| own.as_bytes() == sent);
    // The cache is asked first, and knows the genuine ones after a while.
    let judged = |cache: &TokenCache| {
        let verified = verifies(&world.authenticator, &token, cache);
        assert_eq!(verified, genuine, "{}", String::from_utf8_lossy(&token));
    };
    CACHE.with(judged);
    judged(&TokenCache::none());
}
