//! Memory that begins on a cache line, and memory that is handed back to the system.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Smaller requests are left as they are.
const LARGE: usize = 4096;

/// The system's allocator, but large blocks begin on a cache line. GNU's puts them 16 bytes behind one, so that every second
/// vector of an activation lies across two lines: depthwise convolutions then take 3 to 23 % longer (AVX-512, least of 60
/// runs; up to twice as long on another processor), with the same results. A `Vec` cannot be given an alignment, so a
/// program that trains does well to install this:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: polarizer::Aligned = polarizer::Aligned;
/// ```
pub struct Aligned;

fn aligned(layout: Layout) -> Layout {
    if layout.size() < LARGE { layout } else { layout.align_to(LINE).unwrap_or(layout) }
}

// SAFETY: all requests go to the system's allocator, which keeps the contract; a block is asked for and given back with
// the same layout, since `aligned` depends on nothing but the layout. `realloc` is the default one, which goes through
// these two.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise; alignment is only raised.
        unsafe { System.alloc(aligned(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(aligned(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, aligned(layout)) }
    }
}

/// Hands memory that was freed back to the system. Otherwise an allocator may keep it for later: what a process takes
/// then is the most it ever needed. Does nothing where the C library is not GNU's.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: glibc's own declaration; it takes no pointer, and any thread may call it at any time.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}
