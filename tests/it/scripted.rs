//! A backend that says what it is told to, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with each head that comes over one connection.
#[derive(Clone, Copy)]
pub enum Step {
    /// Write these bytes.
    Say(&'static str),
    /// Read so many bytes of a body, then write these.
    Read(usize, &'static str),
    /// Read no more, and say nothing.
    Stall,
    /// End the connection without a word.
    Leave,
    /// Reset the connection.
    Reset,
}

/// Answers the heads of every connection by the same script.
pub struct Scripted {
    pub port: u16,
    heads: Arc<AtomicUsize>,
}

impl Scripted {
    pub async fn start(script: &'static [Step]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<AtomicUsize>::default();
        let count = heads.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(follow(stream, script, count.clone()));
            }
        });
        Self { port, heads }
    }

    /// Heads read so far, over all connections.
    pub fn heads(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }
}

async fn follow(mut stream: TcpStream, script: &[Step], heads: Arc<AtomicUsize>) {
    for step in script {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => seen.push(byte),
                Err(_) => return,
            }
        }
        heads.fetch_add(1, Ordering::Relaxed);
        match step {
            Step::Say(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            Step::Read(count, text) => {
                stream.read_exact(&mut vec![0; *count]).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            Step::Stall => std::future::pending().await,
            Step::Leave => return,
            Step::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
        }
    }
    let _ = stream.read_to_end(&mut Vec::new()).await;
}
