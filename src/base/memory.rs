//! The allocator, and memory back to the system: the one place of `unsafe`.

#![allow(unsafe_code, reason = "the allocator's own interface is C")]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys as mi;

/// mimalloc, asked for plain blocks where they are aligned enough: an aligned one costs a longer way, and above
/// 1 KiB more room too.
#[derive(Clone, Copy, Debug)]
pub struct Mimalloc;

/// Alignment of `max_align_t`, which any block of at least that size has (C17 section 7.22.3).
const PLAIN_ALIGNMENT: usize = 16;

const fn is_plain(layout: Layout) -> bool {
    layout.align() <= PLAIN_ALIGNMENT && layout.align() <= layout.size()
}

// SAFETY: each block is mimalloc's, of the asked size; it is aligned as asked because either mimalloc is told the
// alignment, or the block is one that C aligns for every object of its size. mimalloc takes back, and
// resizes, either kind by its pointer alone, and does not unwind.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: sizes and alignments of a layout are ones that mimalloc takes.
        unsafe {
            if is_plain(layout) {
                mi::mi_malloc(layout.size()).cast()
            } else {
                mi::mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe {
            if is_plain(layout) {
                mi::mi_zalloc(layout.size()).cast()
            } else {
                mi::mi_zalloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives back a block of this allocator.
        unsafe { mi::mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller gives a block of this allocator, and its layout.
        unsafe {
            if layout.align() <= PLAIN_ALIGNMENT && layout.align() <= size {
                mi::mi_realloc(block.cast::<c_void>(), size).cast()
            } else {
                mi::mi_realloc_aligned(block.cast::<c_void>(), size, layout.align()).cast()
            }
        }
    }
}

/// Gives free memory back at once. A load allocates much on one thread and frees it soon after;
/// left to itself the allocator keeps that for the thread's next load. Takes some milliseconds:
/// never on a worker.
pub fn give_back() {
    // SAFETY: takes no pointer and may be called at any time from any thread (mimalloc's
    // documentation of mi_collect); without mimalloc as the allocator it finds nothing to do.
    unsafe { mi::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_layout_are_aligned_and_keep_their_content() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in [1, 7, 8, 12, 16, 24, 40, 100, 1000, 1025, 1300, 5000, 70_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let grown = Layout::from_size_align(size * 2, align).unwrap();
                // SAFETY: blocks are written within their sizes, and given back with their layouts.
                unsafe {
                    let block = Mimalloc.alloc(layout);
                    assert_eq!(block.addr() % align, 0, "{layout:?}");
                    block.write_bytes(7, size);
                    let block = Mimalloc.realloc(block, layout, size * 2);
                    assert_eq!(block.addr() % align, 0, "{grown:?}");
                    let content = std::slice::from_raw_parts(block, size);
                    assert!(content.iter().all(|byte| *byte == 7), "{layout:?}");
                    Mimalloc.dealloc(block, grown);
                    let zeroed = Mimalloc.alloc_zeroed(layout);
                    assert_eq!(zeroed.addr() % align, 0, "{layout:?}");
                    let content = std::slice::from_raw_parts(zeroed, size);
                    assert!(content.iter().all(|byte| *byte == 0), "{layout:?}");
                    Mimalloc.dealloc(zeroed, layout);
                }
            }
        }
    }
}
