//! Tasks of a library on the worker that uses it.
//!
//! **Invariant:** nothing leaves its thread.

use tokio::task::spawn_local;

/// Runs hyper's HTTP/2 tasks on the worker itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}
