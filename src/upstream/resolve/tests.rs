use hickory_resolver::config::{ConnectionConfig, ResolveHosts, ResolverOpts};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;

/// A DNS server of loopback that answers by the first label: `both`, `four`, `absent` (a negative TTL of
/// 20 s), `forever` (a day), `broken`; others get no answer. And a resolver that asks it.
async fn resolver() -> TokioResolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..count]).unwrap();
            if let Some(answer) = answer(&question) {
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    let mut udp = ConnectionConfig::udp();
    udp.port = port;
    let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    let provider = TokioRuntimeProvider::default();
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = (Duration::from_millis(300), 1);
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, provider).with_options(options).build().unwrap()
}

fn answer(question: &Message) -> Option<Message> {
    let query = question.queries.first()?;
    let name = query.name().clone();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    let text = name.to_string();
    let say = |data| Record::from_rdata(name.clone(), 30, data);
    match (text.split('.').next()?, query.query_type()) {
        ("both" | "four", RecordType::A) => {
            answer.add_answer(say(RData::A(A::new(127, 0, 0, 2))));
            answer.add_answer(say(RData::A(A::new(127, 0, 0, 1))));
        }
        ("both", RecordType::AAAA) => {
            answer.add_answer(say(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))));
        }
        ("four", _) => {}
        (label @ ("absent" | "forever"), _) => {
            let seconds = if label == "absent" { 20 } else { 86_400 };
            let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, seconds);
            let soa = Record::from_rdata(Name::root(), seconds, RData::SOA(soa));
            answer.add_authority(soa);
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        ("broken", _) => answer.metadata.response_code = ResponseCode::ServFail,
        _ => return None,
    }
    Some(answer)
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[tokio::test]
async fn addresses_of_both_families_are_found_and_kept_for_their_time() {
    let dns = resolver().await;
    let check = async |name: &str, expected: &[&str]| {
        let Answer::Found(mut found, wait) = ask(&dns, name).await else { panic!("{name}") };
        found.sort_unstable();
        assert_eq!(found, ips(expected), "{name}");
        assert!(wait > Duration::from_secs(25) && wait <= Duration::from_secs(30), "{wait:?}");
    };
    check("four.example.", &["127.0.0.1", "127.0.0.2"]).await;
    let six = has_route(Ipv6Addr::LOCALHOST.into());
    let both: &[&str] =
        if six { &["127.0.0.1", "127.0.0.2", "::1"] } else { &["127.0.0.1", "127.0.0.2"] };
    check("both.example.", both).await;
}

#[tokio::test]
async fn that_there_is_no_address_is_believed_for_a_bounded_time() {
    let dns = resolver().await;
    let check = async |name: &str, expected: Duration| {
        let Answer::Absent(wait) = ask(&dns, name).await else { panic!("{name}") };
        assert!(wait <= expected && wait + Duration::from_secs(5) > expected, "{wait:?}");
    };
    check("absent.example.", Duration::from_secs(20)).await;
    check("forever.example.", limit::DNS_ABSENT_TIME).await;
}

#[tokio::test]
async fn no_answer_is_a_failure() {
    let dns = resolver().await;
    for name in ["broken.example.", "silent.example."] {
        assert!(matches!(ask(&dns, name).await, Answer::Failed(_)), "{name}");
    }
}

#[tokio::test]
async fn what_was_known_stays_until_there_is_another_answer() {
    let known = Addresses::default();
    let check = |answer, expected: &[&str], changed: bool| {
        let before = known.version();
        known.settle("a.example", answer);
        assert_eq!(*known.latest(), ips(expected));
        assert_eq!(known.version() != before, changed);
    };
    let found = |list| Answer::Found(ips(list), Duration::from_secs(1));
    let failed = ask(&resolver().await, "broken.example.").await;
    check(found(&["192.0.2.2", "192.0.2.1"]), &["192.0.2.2", "192.0.2.1"], true);
    check(found(&["192.0.2.2", "192.0.2.1"]), &["192.0.2.2", "192.0.2.1"], false);
    check(failed, &["192.0.2.2", "192.0.2.1"], false);
    check(found(&["192.0.2.1", "192.0.2.2"]), &["192.0.2.1", "192.0.2.2"], true);
    check(Answer::Absent(Duration::from_secs(1)), &[], true);
}

#[test]
fn waits_are_spread() {
    let waits: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(10))).collect();
    let bounds = Duration::from_secs(10)..=Duration::from_secs(11);
    assert!(waits.iter().all(|wait| bounds.contains(wait)));
    assert!(waits.iter().any(|wait| *wait != waits[0]));
}
