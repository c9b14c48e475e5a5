use std::time::Duration;

use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::net::liveness::{Stuck, Ticks};

fn frame(length: u8, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut bytes = Header::empty(kind, stream).to_vec();
    bytes[2] = length;
    bytes[4] = flags;
    bytes.extend(vec![0; length.into()]);
    bytes
}

const PING: (u8, u8, u8) = (8, 6, 0);

/// How many of so many such frames on stream 1 pass, the last of them included.
fn passing((length, kind, flags): (u8, u8, u8), count: usize) -> usize {
    let one = frame(length, kind, flags, 1);
    let mut metered = Metered::backend(tokio::io::empty(), Greeted::default());
    metered.judge(&one.repeat(count)) / one.len()
}

#[tokio::test]
async fn each_kind_without_content_has_its_end() {
    let most = usize::try_from(limit::HTTP2_CONTROL_FRAMES).unwrap();
    for kind in [PING, (0, 4, 0), (5, 2, 0), (4, 8, 0), (0, 0, 0), (2, 0, 8), (3, 0x20, 0)] {
        let passed = passing(kind, 5 * most);
        assert!((most + 1..most + 100).contains(&passed), "{kind:?}: {passed}");
    }
    // Content, and the end of a stream, cost nothing.
    assert_eq!(passing((1, 0, 0), 5 * most), 5 * most);
    assert_eq!(passing((0, 0, 1), 5 * most), 5 * most);
}

#[tokio::test(start_paused = true)]
async fn time_gives_credit() {
    let mut metered = Metered::backend(tokio::io::empty(), Greeted::default());
    let second = frame(8, 6, 0, 0).repeat(limit::HTTP2_CONTROL_FRAMES_RATE.try_into().unwrap());
    for _ in 0..100 {
        assert_eq!(metered.judge(&second), second.len());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_gives_no_second_burst() {
    let mut metered = Metered::backend(tokio::io::empty(), Greeted::default());
    tokio::time::advance(Duration::from_mins(10)).await;
    let one = frame(8, 6, 0, 0);
    let most = usize::try_from(limit::HTTP2_CONTROL_FRAMES).unwrap();
    assert_eq!(metered.judge(&one.repeat(3 * most)) / one.len(), most + 1);
}

/// How many streams one can open and reset each so-manieth of them.
fn reset(every: usize, opened_by_peer: bool) -> usize {
    let mut metered = Metered::backend(tokio::io::empty(), Greeted::default());
    for (index, stream) in (1..20_001_u32).step_by(2).enumerate() {
        let head = frame(1, 1, 5, stream);
        if opened_by_peer {
            metered.judge(&head);
        } else {
            metered.written = Walk::default();
            note(&mut metered.written, &mut metered.account, &head);
        }
        if index % every == 0 {
            metered.judge(&frame(4, 3, 0, stream));
        }
        if metered.fed.is_some() {
            return index;
        }
    }
    usize::MAX
}

#[tokio::test(start_paused = true)]
async fn a_client_may_reset_every_other_stream_and_a_backend_each() {
    assert!((390..420).contains(&reset(1, true)));
    assert_eq!(reset(2, true), usize::MAX);
    assert_eq!(reset(1, false), usize::MAX);
}

/// The frames that a reader gets, by pieces of a size, of a peer that sends these.
async fn frames(sent: &[u8], size: usize) -> Vec<(Kind, u32, bool)> {
    let mut metered = Metered::backend(sent, Greeted::default());
    let mut walk = Walk::default();
    let mut seen = Vec::new();
    while seen.len() < 5_000 {
        let mut read = vec![0; size];
        let count = metered.read(&mut read).await.unwrap();
        walk.pass(&read[..count], |header| {
            seen.push((header.kind, header.stream, header.ends_head()));
            false
        });
    }
    seen
}

#[tokio::test]
async fn who_has_no_credit_is_fed_a_head_without_end() {
    let endless = (Kind::Continuation, 7, false);
    let open = [frame(4, 1, 0, 7), frame(0, 9, 0, 7).repeat(3_000)].concat();
    let pings = frame(8, 6, 0, 0).repeat(3_000);
    for size in [1, 7, 9, 20, 4096] {
        // Within a head, that one goes on.
        let seen = frames(&open, size).await;
        assert_eq!(seen[0], (Kind::Headers, 7, false), "by {size}");
        assert!(seen[1..].iter().all(|one| *one == endless), "by {size}");
        let seen = frames(&pings, size).await;
        let first = seen.iter().position(|(kind, ..)| *kind != Kind::Ping).unwrap();
        assert!((1_001..1_100).contains(&first), "by {size}: {first}");
        assert_eq!(seen[first], (Kind::Headers, 1, false), "by {size}");
        let endless = (Kind::Continuation, 1, false);
        assert!(seen[first + 1..].iter().all(|one| *one == endless), "by {size}");
    }
}

/// What a connection waits for ten seconds after these bytes came.
fn stuck(bytes: &[u8]) -> Option<Stuck> {
    let ticks = Ticks::default();
    let liveness = Liveness::new(ticks.clone());
    liveness.begin(crate::net::liveness::Kind::Http2);
    let mut metered = Metered::client(tokio::io::empty(), liveness.clone());
    metered.judge(PREFACE);
    metered.judge(bytes);
    (0..11).for_each(|_| ticks.advance());
    liveness.verdict()
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_told() {
    let head = frame(9, 1, 4, 1);
    assert_eq!(stuck(&head), None);
    assert_eq!(stuck(&head[..4]), Some(Stuck::Head));
    assert_eq!(stuck(&head[..12]), Some(Stuck::Head));
    assert_eq!(stuck(&frame(9, 1, 0, 1)), Some(Stuck::Head));
    assert_eq!(stuck(&[frame(9, 1, 0, 1), frame(9, 9, 0, 1)].concat()), Some(Stuck::Head));
    assert_eq!(stuck(&[frame(9, 1, 0, 1), frame(9, 9, 4, 1)].concat()), None);
    // Content may take its time: bodies have a limit of their own.
    assert_eq!(stuck(&frame(9, 0, 0, 1)[..12]), None);
    assert_eq!(stuck(&frame(9, 0, 0, 1)[..3]), Some(Stuck::Head));
}

/// What a connection waits for so many seconds after a client opened streams 1 and 3 and these frames were
/// written and read; so many of their requests are still under way.
fn unsent(written: &[u8], read: &[u8], active: u32, seconds: u32) -> Option<Stuck> {
    let ticks = Ticks::default();
    let liveness = Liveness::new(ticks.clone());
    liveness.begin(crate::net::liveness::Kind::Http2);
    let mut metered = Metered::client(tokio::io::empty(), liveness.clone());
    metered.judge(PREFACE);
    metered.judge(&[frame(9, 1, 5, 1), frame(9, 1, 5, 3)].concat());
    (0..2).for_each(|_| liveness.request_began());
    (active..2).for_each(|_| liveness.request_ended());
    note(&mut metered.written, &mut metered.account, written);
    metered.judge(read);
    (0..seconds).for_each(|_| ticks.advance());
    liveness.verdict()
}

#[tokio::test]
async fn answers_that_the_client_lets_nobody_send_are_told() {
    let heads = [frame(1, 1, 4, 1), frame(1, 1, 4, 3)].concat();
    let end = |stream| frame(5, 0, 1, stream);
    let half = [heads.clone(), end(1)].concat();
    for written in [&heads[..], &half] {
        assert_eq!(unsent(written, &[], 0, 60), None);
        assert_eq!(unsent(written, &[], 0, 61), Some(Stuck::Write));
    }
    // Sent, or given up by the client or by us.
    assert_eq!(unsent(&[half.clone(), end(3)].concat(), &[], 0, 61), None);
    assert_eq!(unsent(&[frame(1, 1, 5, 1), frame(1, 1, 5, 3)].concat(), &[], 0, 61), None);
    assert_eq!(unsent(&half, &frame(4, 3, 0, 3), 0, 61), None);
    assert_eq!(unsent(&[half.clone(), frame(4, 3, 0, 3)].concat(), &[], 0, 61), None);
    // The backend's answer is awaited; of one alone.
    assert_eq!(unsent(&half, &[], 1, 1000), None);
    assert_eq!(unsent(&[], &[], 2, 1000), None);
    assert_eq!(unsent(&heads, &[], 1, 61), Some(Stuck::Write));
}

#[tokio::test]
async fn a_head_is_not_refused_because_its_client_is_gone() {
    let sent = [PREFACE, &frame(9, 1, 5, 1)].concat();
    let mut metered = Metered::client(&*sent, Liveness::new(Ticks::default()));
    metered.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(metered.heads().refused().count(), 0);
}

proptest! {
    /// A client that opens streams, says at most so much for each of them and for each DATA frame that it
    /// gets, and resets no more than every other stream, keeps its connection however it mixes that; and
    /// what it sends is passed on as it is.
    #[test]
    fn clients_that_do_what_clients_do_are_never_ended(
        turns in prop::collection::vec((0..3_u8, 0..10_u8, any::<bool>()), 1..400),
        size in 1..3000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let liveness = Liveness::new(Ticks::default());
        let mut metered = Metered::client(tokio::io::empty(), liveness);
        metered.judge(PREFACE);
        let (mut stream, mut resets) = (1, 0);
        for (turn, count, reset) in turns {
            let mut bytes = Vec::new();
            match turn {
                0 => {
                    bytes.extend(frame(3, 1, 5, stream));
                    stream += 2;
                    resets += 1;
                    if reset && resets >= 2 {
                        resets -= 2;
                        bytes.extend(frame(4, 3, 0, stream - 2));
                    }
                }
                1 => bytes.extend(frame(200, 0, 0, stream)),
                _ => note(&mut metered.written, &mut metered.account, &frame(100, 0, 0, stream)),
            }
            if turn != 1 {
                for kind in [8, 6, 2, 4, 0x10].iter().cycle().take(count.into()) {
                    bytes.extend(frame(4, *kind, 0, stream));
                }
            }
            for piece in bytes.chunks(size) {
                prop_assert_eq!(metered.judge(piece), piece.len());
            }
            prop_assert_eq!(metered.fed, None);
        }
    }
}
