//! Every field of RequestAuthentication through the gateway: what each allows and what it refuses.

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client::Http;
use crate::fixture::{encode, issuer, stranger};
use crate::gateway::{Gateway, Site, gateway, routes, service, to};
use crate::keys::KeyServer;

/// A gateway whose policies are changed for each row of a table.
struct Table {
    site: Site,
    gateway: Gateway,
    http: Http,
    _backend: Backend,
}

/// What one request came to: its status, its text when it was refused here, and what the backend saw.
struct Seen {
    status: u16,
    text: String,
    backend: Value,
}

impl Table {
    async fn start() -> Self {
        let backend = Backend::http1().await;
        let site = Site::new();
        site.config(
            "all",
            &(gateway("plain", 80, "HTTP", "'*'", "")
                + &routes("r", "istio-system/plain", "a.com", &to("echo"))
                + &service("echo", "HTTP", backend.port)),
        );
        let gateway = site.start(&[80]);
        let http = Http::plain(gateway.port(80)).await;
        Self { site, gateway, http, _backend: backend }
    }

    /// Makes one rule the only one. `KEYS` stands for an inline set.
    fn rule(&self, rule: &str) {
        self.policy(&format!("spec: {{jwtRules: [{rule}]}}"));
    }

    fn policy(&self, spec: &str) {
        self.policy_of("metadata: {name: tokens, namespace: istio-system}", spec);
    }

    fn policy_of(&self, metadata: &str, spec: &str) {
        let keys = format!("jwks: '{}'", issuer().key_set("ES256", "k"));
        let spec = spec.replace("KEYS", &keys);
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n{metadata}\n{spec}\n"
        );
        self.gateway.reload(|| _ = self.site.config("tokens", &text));
    }

    async fn ask(&mut self, path: &str, headers: &[(&str, &str)]) -> Seen {
        let reply = self.http.ask(&format!("http://a.com{path}"), headers).await;
        let backend = serde_json::from_str(reply.text()).unwrap_or_default();
        Seen { status: reply.status.as_u16(), text: reply.text().to_owned(), backend }
    }

    /// Sends a bearer token; status and text.
    async fn bearer(&mut self, token: &str) -> (u16, String) {
        let seen = self.ask("/", &[("authorization", &format!("Bearer {token}"))]).await;
        let text = if seen.status == 200 { String::new() } else { seen.text };
        (seen.status, text)
    }
}

fn token(claims: &Value) -> String {
    issuer().token(&json!({"alg": "ES256", "kid": "k"}), claims)
}

fn passed() -> (u16, String) {
    (200, String::new())
}

fn refused(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

#[tokio::test]
async fn issuer_and_audiences() {
    let mut table = Table::start().await;
    table.rule("{issuer: 'https://i', KEYS}");
    assert_eq!(table.ask("/", &[]).await.status, 200);
    assert_eq!(table.bearer(&token(&json!({"iss": "https://i"}))).await, passed());
    let unknown = refused(401, "Jwt issuer is not configured");
    for claims in [json!({"iss": "https://i/"}), json!({"iss": "HTTPS://I"}), json!({})] {
        assert_eq!(table.bearer(&token(&claims)).await, unknown, "{claims}");
    }

    // As Istio's webhook, a rule without an issuer and a place of keys: what was good goes on.
    table.rule("{KEYS}");
    assert_eq!(table.bearer(&token(&json!({"iss": "https://i"}))).await, passed());
    let forged =
        stranger().token(&json!({"alg": "ES256", "kid": "k"}), &json!({"iss": "https://i"}));
    assert_eq!(table.bearer(&forged).await, refused(401, "Jwt verification fails"));

    table.rule("{issuer: i, audiences: [shop, 'https://b.com/'], KEYS}");
    for audience in [json!("shop"), json!(["x", "http://shop/"]), json!("b.com")] {
        let good = token(&json!({"iss": "i", "aud": audience}));
        assert_eq!(table.bearer(&good).await, passed(), "{audience}");
    }
    for audience in [json!("Shop"), json!(["x"]), json!([])] {
        let bad = token(&json!({"iss": "i", "aud": audience}));
        let expected = refused(403, "Audiences in Jwt are not allowed");
        assert_eq!(table.bearer(&bad).await, expected, "{audience}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_refuse_their_own_tokens_alone() {
    let mut table = Table::start().await;
    for keys in ["jwks: '{\"keys\": []}'", "jwks: nonsense", "jwksUri: 'ftp://x'"] {
        table.policy(&format!(
            "spec: {{jwtRules: [{{issuer: bad, {keys}}}, {{issuer: good, KEYS}}]}}"
        ));
        assert_eq!(table.ask("/", &[]).await.status, 200);
        assert_eq!(table.bearer(&token(&json!({"iss": "good"}))).await, passed(), "{keys}");
        let expected = refused(401, "Jwks doesn't have any valid public key");
        assert_eq!(table.bearer(&token(&json!({"iss": "bad"}))).await, expected, "{keys}");
    }
}

#[tokio::test]
async fn tokens_are_where_the_rule_says() {
    let mut table = Table::start().await;
    let good = token(&json!({"iss": "i"}));
    table.rule("{issuer: i, fromHeaders: [{name: x-jwt, prefix: 'Token '}], KEYS}");
    let with = |text: &str| format!("Token {text}");
    let (sent, bad) = (with(&good), with("x.y.z"));
    let seen = table.ask("/", &[("x-jwt", &sent), ("authorization", "Bearer x")]).await;
    assert_eq!((seen.status, &seen.backend["headers"]["x-jwt"]), (200, &Value::Null));
    assert_eq!(seen.backend["headers"]["authorization"], "Bearer x");
    assert_eq!(table.ask("/", &[("x-jwt", &bad)]).await.status, 401);
    assert_eq!(table.ask("/", &[("x-jwt", &sent), ("x-jwt", &bad)]).await.status, 401);
    let seen = table.ask("/", &[("x-jwt", "token x.y.z")]).await;
    assert_eq!(
        (seen.status, seen.backend["headers"]["x-jwt"].as_str()),
        (200, Some("token x.y.z"))
    );

    table.rule("{issuer: i, fromParams: ['my tok'], KEYS}");
    let seen = table.ask(&format!("/p?a=1&my%20tok={good}&b=%20"), &[]).await;
    assert_eq!((seen.status, seen.backend["path"].as_str()), (200, Some("/p?a=1&b=%20")));
    assert_eq!(table.ask("/p?my%20tok=x.y.z", &[]).await.status, 401);
    let seen = table.ask("/p?access_token=x.y.z", &[]).await;
    assert_eq!((seen.status, seen.backend["path"].as_str()), (200, Some("/p?access_token=x.y.z")));

    table.rule("{issuer: i, fromCookies: [session], KEYS}");
    let cookie = format!("a=b; session={good}");
    let seen = table.ask("/", &[("cookie", &cookie)]).await;
    assert_eq!((seen.status, seen.backend["headers"]["cookie"].as_str()), (200, Some(&*cookie)));
    assert_eq!(table.ask("/", &[("cookie", "session=x.y.z")]).await.status, 401);
    assert_eq!(table.ask("/", &[("cookie", "other=x.y.z")]).await.status, 200);
}

#[tokio::test]
async fn the_backend_gets_what_the_rule_gives_and_no_forgery() {
    let mut table = Table::start().await;
    let claims =
        json!({"iss": "i", "sub": "s", "org": {"team": "t"}, "n": 2.0, "list": ["a"], "ok": true});
    let good = token(&claims);
    let bearer = format!("Bearer {good}");
    let sent = [("authorization", &*bearer), ("x-sub", "forged"), ("x-payload", "forged")];
    table.rule("{issuer: i, forwardOriginalToken: true, KEYS}");
    let seen = table.ask("/", &sent).await;
    assert_eq!(seen.backend["headers"]["authorization"], bearer.as_str());
    assert_eq!(seen.backend["headers"]["x-sub"], "forged", "nobody claims this header");

    table.rule(
        "{issuer: i, outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: \
         sub}, {header: x-team, claim: org.team}, {header: x-n, claim: 'n'}, {header: x-list, claim: \
         list}, {header: x-ok, claim: ok}, {header: x-none, claim: org.none}], KEYS}",
    );
    let seen = table.ask("/", &sent).await;
    let headers = &seen.backend["headers"];
    assert_eq!((seen.status, &headers["authorization"]), (200, &Value::Null));
    for (name, value) in [
        ("x-payload", encode(claims.to_string())),
        ("x-sub", "s".into()),
        ("x-team", "t".into()),
        ("x-n", "2".into()),
        ("x-list", "WyJhIl0=".into()),
        ("x-ok", "true".into()),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(headers["x-none"], Value::Null);
    for (subject, payload) in [("x-sub", "x-payload"), ("x_sub", "X_Payload")] {
        let seen = table.ask("/", &[(subject, "forged"), (payload, "forged")]).await;
        let headers = seen.backend["headers"].to_string();
        assert!(seen.status == 200 && !headers.contains("forged"), "{headers}");
    }
}

#[tokio::test]
async fn space_delimited_claims_are_lists_for_policies() {
    let mut table = Table::start().await;
    table.site.config(
        "access",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: admins, \
         namespace: istio-system}\nspec: {rules: [{when: [{key: 'request.auth.claims[roles]', values: \
         [admin]}]}]}\n",
    );
    let good = token(&json!({"iss": "i", "sub": "s", "roles": "user admin"}));
    table.rule("{issuer: i, KEYS}");
    assert_eq!(table.bearer(&good).await, refused(403, "RBAC: access denied"));
    table.rule("{issuer: i, spaceDelimitedClaims: [roles], KEYS}");
    assert_eq!(table.bearer(&good).await, passed());
    let other = token(&json!({"iss": "i", "sub": "s", "roles": "user administrator"}));
    assert_eq!(table.bearer(&other).await, refused(403, "RBAC: access denied"));
}

#[tokio::test]
async fn policies_apply_to_what_they_select() {
    let mut table = Table::start().await;
    let rules = "jwtRules: [{issuer: i, KEYS}]";
    let own = "metadata: {name: tokens, namespace: istio-system}";
    for (metadata, spec, status) in [
        (own, format!("spec: {{{rules}}}"), 401),
        (
            own,
            format!("spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, {rules}}}"),
            401,
        ),
        (own, format!("spec: {{selector: {{matchLabels: {{app: other}}}}, {rules}}}"), 200),
        ("metadata: {name: tokens, namespace: shop}", format!("spec: {{{rules}}}"), 200),
        (
            own,
            format!(
                "spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: x}}], \
                 {rules}}}"
            ),
            200,
        ),
    ] {
        table.policy_of(metadata, &spec);
        assert_eq!(table.bearer("x.y.z").await.0, status, "{metadata} {spec}");
        assert_eq!(table.ask("/", &[]).await.status, 200, "{metadata} {spec}");
    }
    table.policy(&format!("spec: {{jwtRule: 1, {rules}}}"));
    assert_eq!(table.ask("/", &[]).await.status, 403, "a misspelt policy may say more");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_where_a_service_entry_says_and_their_state_is_shown() {
    let mut table = Table::start().await;
    let keys = KeyServer::start(issuer().key_set("ES256", "k")).await;
    table.site.config(
        "issuer",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: issuer, \
             namespace: istio-system}}\nspec: {{hosts: [issuer.internal], resolution: STATIC, ports: \
             [{{number: 8080, name: p, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1, ports: {{p: \
             {}}}}}]}}\n",
            keys.port
        ),
    );
    table.policy(
        "spec: {jwtRules: [{issuer: far, jwksUri: 'http://issuer.internal:8080/k?key=s3cret'}, {issuer: \
         near, KEYS}]}",
    );
    let ready = |gateway: &Gateway| gateway.admin("/jwks")[0]["state"] == "ready";
    table.gateway.wait("the keys are fetched", || ready(&table.gateway));
    assert_eq!(table.bearer(&token(&json!({"iss": "far"}))).await, passed());
    let shown = table.gateway.admin("/jwks");
    let far = &shown[0];
    assert_eq!(
        (&far["issuer"], &far["uri"]),
        (&json!("far"), &json!("http://issuer.internal:8080/k"))
    );
    assert_eq!((&far["keys"], &far["last_error"]), (&json!(1), &Value::Null));
    assert!(far["next_fetch_unix"].as_u64() > far["last_success_unix"].as_u64(), "{far}");
    assert_eq!((&shown[1]["issuer"], &shown[1]["uri"]), (&json!("near"), &Value::Null));
    assert_eq!((&shown[1]["state"], &shown[1]["keys"]), (&json!("ready"), &json!(1)));
    let metrics = table.gateway.metrics();
    assert!(metrics.contains("portcullis_jwks_ready{issuer=\"near\",uri=\"\"} 1"), "{metrics}");
    assert!(!metrics.contains("s3cret") && !shown.to_string().contains("s3cret"));
}
