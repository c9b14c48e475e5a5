//! Tasks of a library on the worker that uses it.
//!
//! **Invariant:** nothing leaves its thread.

use tokio::task::spawn_local;

/// Runs hyper's HTTP/2 tasks on the worker itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        // Boxed: tasks are aligned to 128 bytes, and only for a small one has the allocator room at hand.
        let boxed = Box::pin(future);
        spawn_local(async move {
            boxed.await;
        });
    }
}
