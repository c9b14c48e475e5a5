use super::*;

#[test]
fn answers_are_envoys() {
    let check = |reject: Reject, status: u16, body: &str, flag: &str| {
        assert_eq!(reject.status().as_u16(), status);
        assert_eq!(reject.body(), body);
        assert_eq!(reject.answer().flag, flag);
    };
    check(Reject::RouteNotFound, 404, "", "NR");
    check(Reject::TargetTooLong, 414, "URI Too Long", "-");
    check(Reject::ClusterNotFound, 503, "", "NC");
    check(Reject::NoHealthyUpstream, 503, "no healthy upstream", "UH");
    check(
        Reject::Overflow,
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        "UO",
    );
    check(Reject::Timeout, 504, "upstream request timeout", "UT");
    check(
        Reject::UpstreamClosed,
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        "UC",
    );
    check(Reject::Misdirected, 421, "", "NR");
    check(
        Reject::ConnectFailed(ConnectFailure::Timeout, Tried::Once),
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
        "UF",
    );
    check(
        Reject::ConnectFailed(ConnectFailure::Refused, Tried::Repeatedly),
        503,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused",
        "UF,URX",
    );
}

#[test]
fn an_exhausted_policy_shows_in_text_and_flag() {
    let last = Reject::Exhausted(Box::new(Reject::UpstreamClosed));
    assert_eq!((last.status().as_u16(), last.answer().flag), (503, "UC,URX"));
    assert!(last.body().contains("headers. retried and the latest reset reason: connection term"));
}

#[test]
fn what_went_wrong_in_tls_is_for_the_log_only() {
    let failure = ConnectFailure::Tls("secret detail".into());
    let reject = Reject::ConnectFailed(failure, Tried::Once);
    assert!(!reject.body().contains("secret"));
    assert_eq!(reject.transport_failure(), Some("secret detail"));
}
