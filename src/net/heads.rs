//! Heads that a client's HTTP/2 connection took, against the requests that came of them.
//!
//! The library behind it answers a head that is too large with 431, and resets the stream of one that is
//! malformed or one too many, without a word to us. A turn of the connection that ends with waiting for
//! the client has given us all requests there were: of the heads that are left, none came.
//!
//! **Invariant:** a head is told as refused once, and never while the library may still make a request
//! of it.

use std::cell::Cell;
use std::rc::Rc;

use crate::base::limit;

/// Counts of one connection, shared by its ends.
#[derive(Clone, Debug, Default)]
pub struct Heads(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Length of the head that is being read.
    length: Cell<u32>,
    /// Heads that have ended and of which no request has come.
    open: Cell<u32>,
    /// Those of them that are as long as one that is too large.
    long: Cell<u32>,
    /// Whether all that was read was taken in, and more is awaited.
    waiting: Cell<bool>,
    stopped: Cell<bool>,
}

/// Why a head was refused by the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is too large.
    TooLarge,
    /// It is malformed, or its stream is one too many.
    Other,
}

/// Huffman coding makes five bits of eight at best (RFC 7541 appendix B): a shorter head is too large only
/// when it repeats itself.
const LONG: u32 = limit::HTTP2_HEADER_LIST_BYTES / 8 * 5;

impl Heads {
    /// So many bytes of a head come; it is the first of its stream.
    pub fn more(&self, bytes: u32) {
        self.0.length.set(self.0.length.get().saturating_add(bytes));
    }

    /// The head has come to its end.
    pub fn ended(&self) {
        let length = self.0.length.take();
        self.0.open.set(self.0.open.get() + 1);
        self.0.long.set(self.0.long.get() + u32::from(length >= LONG));
    }

    /// A request came of one.
    pub fn served(&self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }

    /// The library asks for more; whether it has to wait, rather than to hear that the client is gone.
    pub fn asked(&self, waiting: bool) {
        self.0.waiting.set(waiting);
    }

    /// The connection takes no new streams: what comes now is not refused, but left to another.
    pub fn stop(&self) {
        self.0.stopped.set(true);
    }

    /// Why each head of which no request came was refused; to be asked after a turn of the connection.
    pub fn refused(&self) -> impl Iterator<Item = Refusal> + use<> {
        let settled = self.0.waiting.get() && !self.0.stopped.get();
        let (open, long) = if settled { (self.0.open.take(), self.0.long.take()) } else { (0, 0) };
        let large = open.min(long);
        (0..open).map(move |index| if index < large { Refusal::TooLarge } else { Refusal::Other })
    }
}

#[cfg(test)]
mod tests {
    use Refusal::{Other, TooLarge};

    use super::*;

    /// Heads of these lengths, so many requests, and what is told of the rest.
    fn check(lengths: &[u32], served: usize, expected: &[Refusal]) {
        let heads = Heads::default();
        for length in lengths {
            heads.more(length / 2);
            heads.more(length - length / 2);
            heads.ended();
        }
        heads.asked(false);
        assert_eq!(heads.refused().count(), 0, "the library has not taken them in");
        (0..served).for_each(|_| heads.served());
        heads.asked(true);
        assert!(heads.refused().eq(expected.iter().copied()), "{lengths:?} {served}");
        assert_eq!(heads.refused().count(), 0, "they are told once");
    }

    #[test]
    fn a_head_without_a_request_is_told_by_its_length() {
        check(&[], 0, &[]);
        check(&[10, LONG], 2, &[]);
        check(&[LONG], 0, &[TooLarge]);
        check(&[LONG - 1], 0, &[Other]);
        check(&[10, LONG, 10], 1, &[TooLarge, Other]);
    }

    #[test]
    fn a_connection_that_ends_refuses_nothing() {
        let heads = Heads::default();
        heads.ended();
        heads.asked(true);
        heads.stop();
        assert_eq!(heads.refused().count(), 0);
    }
}
