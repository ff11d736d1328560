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
    /// All that they have room for.
    floats: usize,
}

impl Waiting {
    /// Frees the oldest until at most `most` floats wait.
    fn shrink(&mut self, most: usize) {
        while self.floats > most && !self.buffers.is_empty() {
            let oldest = self.buffers.remove(0);
            self.floats -= oldest.capacity();
        }
    }
}

static LIMIT: AtomicUsize = AtomicUsize::new(MOST);
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { buffers: Vec::new(), floats: 0 });

fn waiting() -> std::sync::MutexGuard<'static, Waiting> {
    // a panic while it was held leaves at worst a wrong count of what waits
    WAITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A waiting buffer that has room for so many floats: the shortest, and among equals the last given, whose pages are
/// likeliest still in the cache.
fn waiting_for(len: usize) -> Option<Vec<f32>> {
    if len < SMALLEST {
        return None;
    }
    let mut w = waiting();
    let best = (0..w.buffers.len())
        .rev()
        .filter(|&i| w.buffers[i].capacity() >= len && w.buffers[i].capacity() / SHARE <= len)
        .min_by_key(|&i| w.buffers[i].capacity())?;
    let buffer = w.buffers.remove(best);
    w.floats -= buffer.capacity();
    Some(buffer)
}

/// `len` floats of unspecified (but initialised) value: an earlier buffer where one fits, else zeros.
pub fn take(len: usize) -> Vec<f32> {
    let Some(mut buffer) = waiting_for(len) else { return vec![0.0; len] };
    // cut short, or zeros for what was cut off when it was taken before
    buffer.resize(len, 0.0);
    buffer
}

/// Hands a buffer back for a later [`take`]. More than the [`limit`] is never kept: the oldest go first.
pub fn give(buffer: Vec<f32>) {
    let most = LIMIT.load(Relaxed) / size_of::<f32>();
    if buffer.capacity() < SMALLEST || buffer.capacity() > most {
        return;
    }
    let mut w = waiting();
    w.floats += buffer.capacity();
    w.buffers.push(buffer);
    w.shrink(most);
}

/// Floats for a while, of unspecified (but initialised) value: they go back to the buffers by themselves, and never need to
/// be written anew because an earlier use of them was for fewer.
pub struct Scratch {
    whole: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub fn new(len: usize) -> Self {
        let mut whole = waiting_for(len).unwrap_or_else(|| vec![0.0; len]);
        if whole.len() < len {
            whole.resize(len, 0.0);
        }
        Self { whole, len }
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.whole[..self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.whole[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.whole));
    }
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
        drop(Scratch::new(len - 5));
        let mut whole = Scratch::new(len);
        assert_eq!((whole.len(), whole.as_ptr()), (len, at));
        whole[len - 1] = 42.0;
        drop(whole);
        assert_eq!(Scratch::new(len - 5).len(), len - 5);
        assert_eq!(Scratch::new(len)[len - 1], 42.0, "written anew, though only cut short");
        let small = take(len / 3);
        assert!(small.as_ptr() != at, "a small request does not use up a large buffer");
    }
}
