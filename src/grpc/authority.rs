//! What gRPC's C library names as the authority of a Unix socket, made acceptable.
//!
//! It sends the socket's path, percent-encoded (`run%2Fsds.sock`), and HTTP/2 as we have it refuses a
//! percent sign there. Each is replaced before the header block is read; the length stays, so that
//! nothing else of the stream changes (RFC 9113, section 4.1; RFC 7541, section 6).
//!
//! **Invariant:** bytes go on in their order and number; of a stream that is not understood none is
//! changed.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's stream, its authority mended.
pub struct Mended<S> {
    stream: S,
    scan: Scan,
    ended: bool,
}

impl<S> Mended<S> {
    /// Mends what is read of a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, scan: Scan { skip: PREFACE_BYTES, ..Scan::default() }, ended: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.scan.ready.is_empty() && !this.ended {
            let mut space = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            match read.filled() {
                [] => {
                    this.ended = true;
                    this.scan.ready.extend(this.scan.waiting.drain(..));
                }
                bytes => this.scan.take(bytes),
            }
        }
        let (bytes, _) = this.scan.ready.as_slices();
        let bytes = bytes.get(..bytes.len().min(out.remaining())).unwrap_or_default();
        let count = bytes.len();
        out.put_slice(bytes);
        this.scan.ready.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Frames as they come: at most one header block waits for its end.
#[derive(Default)]
struct Scan {
    /// Bytes that go on as they are.
    skip: usize,
    waiting: Vec<u8>,
    ready: VecDeque<u8>,
}

impl Scan {
    fn take(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = self.waiting.get_mut(at..).unwrap_or_default();
            let step = if self.skip > 0 {
                let step = self.skip.min(rest.len());
                self.skip -= step;
                step
            } else {
                match frame(rest) {
                    Frame::Headers(length) => {
                        mend(rest.get_mut(HEAD_BYTES..length).unwrap_or_default());
                        length
                    }
                    Frame::Other(length) => {
                        self.skip = length;
                        continue;
                    }
                    Frame::Incomplete => 0,
                }
            };
            if step == 0 {
                break;
            }
            at += step;
        }
        self.ready.extend(self.waiting.drain(..at));
    }
}

/// What a stream goes on with.
enum Frame {
    /// A whole header block, of this length with its frame.
    Headers(usize),
    /// Something of this length that does not matter here.
    Other(usize),
    Incomplete,
}

fn frame(bytes: &[u8]) -> Frame {
    let [a, b, c, kind, flags, _, _, _, _, ..] = *bytes else { return Frame::Incomplete };
    let payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    let length = HEAD_BYTES + payload;
    // Padding and priorities are not sent by who needs this.
    let plain = kind == HEADERS && flags & (END_HEADERS | PADDED | PRIORITY) == END_HEADERS;
    if !plain || payload > FRAME_BYTES {
        Frame::Other(length)
    } else if bytes.len() < length {
        Frame::Incomplete
    } else {
        Frame::Headers(length)
    }
}

/// Replaces percent signs in plain values of `:authority`.
fn mend(block: &mut [u8]) {
    let mut at = 0;
    while let Some(field) = field(block, at) {
        if let Some(value) = field.authority
            && let Some(value) = block.get_mut(value.0..value.1)
        {
            value.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'.');
        }
        at = field.end;
    }
}

/// One field of a header block.
struct Field {
    end: usize,
    /// From where to where the value lies, when it is `:authority`'s and not Huffman-coded.
    authority: Option<(usize, usize)>,
}

fn field(block: &[u8], at: usize) -> Option<Field> {
    let first = *block.get(at)?;
    // Indexed field, or change of the table's size: no value.
    if first & 0x80 != 0 || first & 0xe0 == 0x20 {
        let bits = if first & 0x80 != 0 { 7 } else { 5 };
        let (_, end) = integer(block, at, bits)?;
        return Some(Field { end, authority: None });
    }
    let bits = if first & 0x40 != 0 { 6 } else { 4 };
    let (name, mut at) = integer(block, at, bits)?;
    let mut named = name == AUTHORITY;
    if name == 0 {
        let (start, end) = text(block, at)?;
        named = block.get(start..end) == Some(AUTHORITY_NAME);
        at = end;
    }
    let huffman = block.get(at)? & 0x80 != 0;
    let (start, end) = text(block, at)?;
    let authority = (named && !huffman).then_some((start, end));
    Some(Field { end, authority })
}

/// Where the bytes of a string begin and end.
fn text(block: &[u8], at: usize) -> Option<(usize, usize)> {
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length)?;
    (end <= block.len()).then_some((start, end))
}

/// An integer with a prefix of some bits (RFC 7541, section 5.1), and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut at = at + 1;
    if value < most {
        return Some((value, at));
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(at)?;
        at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// "PRI * HTTP/2.0" and so on, before the first frame.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// Largest frame that is accepted without another having been agreed on.
const FRAME_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 4 << 10;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Place of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A header block as gRPC's C library writes it: names as text, or by their place in the table.
    fn block(authority: &[u8]) -> Vec<u8> {
        let text = |value: &[u8]| [&[u8::try_from(value.len()).unwrap()], value].concat();
        let fields = [
            vec![0x40],
            text(b":path"),
            text(b"/a%20b"),
            vec![0x40],
            text(b":authority"),
            text(authority),
            vec![0x83, 0x3f, 0x21, 0x41],
            text(authority),
            vec![0x00],
            text(b"x-custom%"),
            text(b"50%"),
        ];
        fields.concat()
    }

    fn frame_of(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frames.concat()].concat()
    }

    fn read(bytes: &[u8], chunk: usize) -> Vec<u8> {
        let mut scan = Scan { skip: PREFACE_BYTES, ..Scan::default() };
        bytes.chunks(chunk).for_each(|chunk| scan.take(chunk));
        scan.ready.extend(scan.waiting.drain(..));
        scan.ready.into()
    }

    fn check(sent: &[Vec<u8>], expected: &[Vec<u8>]) {
        for chunk in [1, 2, 7, 10, 1000] {
            assert_eq!(read(&stream(sent), chunk), stream(expected), "{chunk}");
        }
    }

    #[test]
    fn the_authority_alone_is_mended() {
        let settings = frame_of(4, 0, b"\x41\x02%%");
        let data = frame_of(0, 1, b"\x41\x02%%");
        let headers = |authority: &[u8]| frame_of(HEADERS, END_HEADERS, &block(authority));
        check(
            &[settings.clone(), headers(b"tmp%2Fa%2Fs"), data.clone(), headers(b"b%2Fs")],
            &[settings, headers(b"tmp.2Fa.2Fs"), data, headers(b"b.2Fs")],
        );
        let long = "a%".repeat(60);
        let mended = long.replace('%', ".");
        check(&[headers(long.as_bytes())], &[headers(mended.as_bytes())]);
    }

    #[test]
    fn what_is_not_understood_goes_on_as_it_is() {
        let unfinished = frame_of(HEADERS, 0, &block(b"a%"));
        let padded = frame_of(HEADERS, END_HEADERS | PADDED, &block(b"a%"));
        let huffman = frame_of(HEADERS, END_HEADERS, &[0x41, 0x82, b'%', b'%']);
        let cut = frame_of(HEADERS, END_HEADERS, &[0x41, 0x7e, b'%', b'%']);
        for frame in [unfinished, padded, huffman, cut] {
            check(std::slice::from_ref(&frame), std::slice::from_ref(&frame));
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_frame_is_read_whole() {
        let mut sent = stream(&[frame_of(HEADERS, END_HEADERS, &block(b"a%"))]);
        sent.truncate(sent.len() - 3);
        let mut read = Vec::new();
        Mended::new(sent.as_slice()).read_to_end(&mut read).await.unwrap();
        assert_eq!(read, sent);
    }

    proptest! {
        #[test]
        fn bytes_keep_their_number_and_all_but_percent_signs(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            chunk in 1_usize..50,
        ) {
            let bytes = stream(&[bytes.clone(), frame_of(HEADERS, END_HEADERS, &bytes)]);
            let read = read(&bytes, chunk);
            prop_assert_eq!(read.len(), bytes.len());
            for (read, sent) in read.iter().zip(&bytes) {
                prop_assert!(read == sent || (*sent == b'%' && *read == b'.'));
            }
        }
    }
}
