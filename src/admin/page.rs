//! Pages that take long to make, or are long: they are made on threads of their own, so that every
//! port answers meanwhile, and few at a time, so that few are in memory.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::answer;
use super::server::Reply;
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
    /// A page, once its turn has come.
    pub(super) fn make(&self, page: &Page) -> Reply {
        let (desk, page) = (self.0.clone(), page.clone());
        Box::pin(async move {
            let Ok(place) = desk.acquire_owned().await else {
                return answer::empty(StatusCode::SERVICE_UNAVAILABLE);
            };
            match spawn_blocking(move || format!("{:#}\n", page()).into_bytes()).await {
                Ok(text) => {
                    let text = Bytes::from_owner(Written { text, _place: place });
                    answer::body(StatusCode::OK, "application/json", Full::new(text))
                }
                Err(error) => {
                    tracing::error!(%error, "a page cannot be made");
                    answer::empty(StatusCode::INTERNAL_SERVER_ERROR)
                }
            }
        })
    }
}
