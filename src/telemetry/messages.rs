//! Messages of gRPC streams (`istio_request_messages_total`, `istio_response_messages_total`), counted
//! as their bytes go by.

use std::sync::Arc;

use super::series::Count;

/// One worker's copy of a destination's message counts.
#[derive(Debug, Default)]
pub(super) struct MessageSeries {
    pub(super) requests: Count,
    pub(super) responses: Count,
}

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

/// Counts the length-prefixed messages of one direction of a stream; nothing of them is kept.
#[derive(Debug)]
pub struct MessageMeter {
    series: Arc<MessageSeries>,
    direction: Direction,
    framing: Framing,
}

impl MessageMeter {
    pub(super) fn new(series: Arc<MessageSeries>, direction: Direction) -> Self {
        Self { series, direction, framing: Framing::default() }
    }

    /// Looks at the next bytes; call it on the worker it was made for.
    pub fn pass(&mut self, bytes: &[u8]) {
        let begun = self.framing.pass(bytes);
        if begun > 0 {
            match self.direction {
                Direction::Request => self.series.requests.add(begun),
                Direction::Response => self.series.responses.add(begun),
            }
        }
    }
}

/// Place in a stream of messages, each after a flag and its length in four bytes, most significant
/// first.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes seen of the five.
    prefix: u8,
    length: u32,
    /// Bytes left of a message.
    rest: usize,
}

impl Framing {
    /// How many messages begin in these bytes: those whose length is complete.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let [first, after @ ..] = bytes else { return begun };
            bytes = after;
            if self.prefix > 0 {
                self.length = (self.length << 8) | u32::from(*first);
            }
            self.prefix += 1;
            if self.prefix == 5 {
                self.rest = usize::try_from(self.length).unwrap_or(usize::MAX);
                self.prefix = 0;
                self.length = 0;
                begun += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lengths: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.push(0);
            bytes.extend_from_slice(&u32::try_from(*length).unwrap().to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xff, *length));
        }
        bytes
    }

    /// Passes a stream in pieces of every size.
    fn check(bytes: &[u8], messages: u64) {
        for size in 1..=bytes.len().max(1) {
            let mut framing = Framing::default();
            let counted: u64 = bytes.chunks(size).map(|piece| framing.pass(piece)).sum();
            assert_eq!(counted, messages, "in pieces of {size}");
        }
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        check(&stream(&[]), 0);
        check(&stream(&[0]), 1);
        check(&stream(&[3, 0, 0, 300, 7]), 5);
    }

    #[test]
    fn an_unfinished_length_is_no_message_and_an_unfinished_message_is_one() {
        check(&[0, 0, 0, 0], 0);
        check(&[0, 0, 0, 0, 9, 1], 1);
        check(&[1, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], 1);
    }
}
