//! Memory for activations, used again instead of being mapped, zeroed and unmapped by the system each time: a large
//! `Vec` that is freed goes back to the kernel, and the next one of that size pays for every page anew.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Smaller ones are left to the allocator, which keeps them itself.
const SMALLEST: usize = 16 * 1024;
/// Most bytes that wait here, unless [`limit`] says otherwise: 1 GiB.
pub const MOST: usize = 1 << 30;
/// A waiting buffer is taken for a request of at least this share of its length.
const SHARE: usize = 2;

struct Waiting {
    buffers: Vec<Vec<f32>>,
    floats: usize,
}

impl Waiting {
    /// Frees the oldest until at most `most` floats wait.
    fn shrink(&mut self, most: usize) {
        while self.floats > most && !self.buffers.is_empty() {
            let oldest = self.buffers.remove(0);
            self.floats -= oldest.len();
        }
    }
}

static LIMIT: AtomicUsize = AtomicUsize::new(MOST);
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { buffers: Vec::new(), floats: 0 });

fn waiting() -> std::sync::MutexGuard<'static, Waiting> {
    // a panic while it was held leaves at worst a wrong count of what waits
    WAITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `len` floats of unspecified (but initialised) value: an earlier buffer where one fits, else zeros.
pub fn take(len: usize) -> Vec<f32> {
    if len >= SMALLEST {
        let mut w = waiting();
        // the shortest that is long enough; among equals the last given, whose pages are likeliest still in the cache
        let best = (0..w.buffers.len())
            .rev()
            .filter(|&i| w.buffers[i].len() >= len && w.buffers[i].len() / SHARE <= len)
            .min_by_key(|&i| w.buffers[i].len());
        if let Some(i) = best {
            let mut v = w.buffers.remove(i);
            w.floats -= v.len();
            drop(w);
            v.truncate(len);
            return v;
        }
    }
    vec![0.0; len]
}

/// Hands a buffer back for a later [`take`]. More than the [`limit`] is never kept: the oldest go first.
pub fn give(mut buffer: Vec<f32>) {
    let most = LIMIT.load(Relaxed) / size_of::<f32>();
    if buffer.capacity() < SMALLEST || buffer.capacity() > most {
        return;
    }
    // its whole capacity waits, so that a buffer cut short once is not short for ever
    buffer.resize(buffer.capacity(), 0.0);
    let mut w = waiting();
    w.floats += buffer.len();
    w.buffers.push(buffer);
    w.shrink(most);
}

/// Lets at most so many bytes wait from now on, in the whole process. Less costs time, never a result.
pub fn limit(bytes: usize) {
    LIMIT.store(bytes, Relaxed);
    waiting().shrink(bytes / size_of::<f32>());
}

/// Frees all that waits, and hands what is free back to the system.
pub fn clear() {
    waiting().shrink(0);
    super::allocator::trim();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let len = 7_654_321; // a length that no other test asks for
        let mut a = take(len);
        a[len - 1] = 42.0;
        let at = a.as_ptr();
        give(a);
        let b = take(len - 5);
        assert_eq!((b.len(), b.as_ptr()), (len - 5, at));
        give(b);
        let c = take(len);
        assert_eq!((c.len(), c.as_ptr()), (len, at));
        give(c);
        let small = take(len / 3);
        assert!(small.as_ptr() != at, "a small request does not use up a large buffer");
    }
}
