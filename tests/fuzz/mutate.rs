//! Small changes of known inputs.

use fastrand::Rng;

/// Bytes that mean something to one of the parsers.
const TOKENS: &[&[u8]] = &[
    b".",
    b"=",
    b"%2e",
    b"%2F",
    b"%5c",
    b"//",
    b"/../",
    b"\\",
    b"%25",
    b"%",
    b"\0",
    b"\xff",
    b"\x30\x82",
    b"\x01\x01\xff",
    b"spiffe://",
    b"\n",
    b"\"",
    b"none",
    b"HS256",
    b"oct",
    b"\"k\":\"AAAA\"",
    b"*",
];

/// One of the seeds, changed in up to six places.
pub fn changed(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = pick(rng, seeds).clone();
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(..=bytes.len());
        let end = (at + rng.usize(..=8)).min(bytes.len());
        match rng.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => bytes.insert(at, rng.u8(..)),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, pick(rng, TOKENS).iter().copied())),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let other = pick(rng, seeds);
                let from = rng.usize(..=other.len());
                let to = (from + rng.usize(..=32)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

fn pick<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.usize(..list.len())]
}
