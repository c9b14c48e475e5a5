//! Memory back to the system: the one place of `unsafe`.

#![allow(unsafe_code, reason = "the allocator's own interface is C")]

/// Gives free memory back at once. A load allocates much on one thread and frees it soon after;
/// left to itself the allocator keeps that for the thread's next load. Takes some milliseconds:
/// never on a worker.
pub fn give_back() {
    // SAFETY: takes no pointer and may be called at any time from any thread (mimalloc's
    // documentation of mi_collect); without mimalloc as the allocator it finds nothing to do.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
