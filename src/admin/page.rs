//! Pages that take long to make, or are long: they are made on threads of their own, so that every
//! port answers meanwhile, and few at a time, so that few are in memory.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::answer::{self, Answer};
use crate::base::limit;

/// Makes one page of the admin port.
pub type Page = Arc<dyn Fn() -> Value + Send + Sync>;

/// Where pages are made.
pub(super) struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limit::ADMIN_PAGES)))
    }
}

/// A page's text, which keeps its place at the desk until it is sent.
struct Written {
    text: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Desk {
    /// A page; it is made once its turn has come. One that cannot be made ends early.
    pub(super) fn make(&self, page: &Page) -> Answer {
        let (desk, page) = (self.0.clone(), page.clone());
        let text = async move {
            let place = desk.acquire_owned().await.ok()?;
            let text = spawn_blocking(move || format!("{:#}\n", page()).into_bytes()).await;
            let text = text.inspect_err(|error| tracing::error!(%error, "a page cannot be made"));
            Some(Bytes::from_owner(Written { text: text.ok()?, _place: place }))
        };
        let frames = stream::once(text)
            .filter_map(|text| async { text.map(|text| Ok::<_, Infallible>(Frame::data(text))) });
        answer::body(StatusCode::OK, "application/json", StreamBody::new(frames))
    }
}
