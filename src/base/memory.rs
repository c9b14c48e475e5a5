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

/// `mi_option_purge_delay` of mimalloc 3 (mimalloc.h), in milliseconds.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has free memory go back to the system after 1 ms, not a second: a reload needs the room again before
/// that, and requests reuse theirs sooner. What the environment says (`MIMALLOC_PURGE_DELAY`) counts. Before there are threads.
pub fn prepare() {
    // SAFETY: a number out of the enum's range is ignored, and the caller has one thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 1) }
}
