//! A pool of reusable float buffers. Allocators return a large freed `Vec` to the system, and the next one of that size
//! pays for mapping and zeroing every page again. Each run has its own pool ([`super::runtime`]).

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Smallest pooled buffer, in floats; the allocator itself caches smaller ones.
const SMALLEST: usize = 16 * 1024;
/// Default limit of a run's pool in bytes: 1 GiB.
pub const MOST: usize = 1 << 30;
/// A buffer is reused only for requests of at least 1/SHARE of its length.
const SHARE: usize = 2;

#[derive(Default)]
struct Waiting {
    buffers: Vec<Vec<f32>>,
    /// Their total capacity in floats.
    floats: usize,
}

impl Waiting {
    /// Frees the oldest buffers until at most `most` floats are pooled.
    fn shrink(&mut self, most: usize) {
        while self.floats > most && !self.buffers.is_empty() {
            let oldest = self.buffers.remove(0);
            self.floats -= oldest.capacity();
        }
    }
}

/// The buffer pool of one run.
pub struct Buffers {
    /// In bytes.
    limit: AtomicUsize,
    waiting: Mutex<Waiting>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { limit: AtomicUsize::new(MOST), waiting: Mutex::default() }
    }
}

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // a panic while it was locked can at worst leave a wrong count
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pooled buffer with capacity for `len` floats: the smallest, and of equal ones the most recently
    /// returned, which is most likely still cached.
    pub fn take(&self, len: usize) -> Option<Vec<f32>> {
        if len < SMALLEST {
            return None;
        }
        let mut w = self.lock();
        let best = (0..w.buffers.len())
            .rev()
            .filter(|&i| w.buffers[i].capacity() >= len && w.buffers[i].capacity() / SHARE <= len)
            .min_by_key(|&i| w.buffers[i].capacity())?;
        let buffer = w.buffers.remove(best);
        w.floats -= buffer.capacity();
        Some(buffer)
    }

    /// Returns `buffer` to the pool for a later [`take`](Self::take). Beyond the limit the oldest are freed.
    pub fn give(&self, buffer: Vec<f32>) {
        let most = self.limit.load(Relaxed) / size_of::<f32>();
        if buffer.capacity() < SMALLEST || buffer.capacity() > most {
            return;
        }
        let mut w = self.lock();
        w.floats += buffer.capacity();
        w.buffers.push(buffer);
        w.shrink(most);
    }

    /// Sets the limit of the pool, in bytes.
    pub fn limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
        self.lock().shrink(bytes / size_of::<f32>());
    }

    /// Frees all pooled buffers.
    pub fn clear(&self) {
        self.lock().shrink(0);
    }

    /// Size of the pooled buffers, in bytes.
    pub fn bytes(&self) -> usize {
        self.lock().floats * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_length_is_taken_and_a_small_request_does_not_use_up_a_large_buffer() {
        let buffers = Buffers::default();
        for len in [100_000, 50_000, 60_000] {
            buffers.give(Vec::with_capacity(len));
        }
        assert_eq!(buffers.bytes(), 4 * 210_000);
        assert_eq!(buffers.take(45_000).map(|b| b.capacity()), Some(50_000));
        assert_eq!(buffers.take(45_000).map(|b| b.capacity()), Some(60_000));
        assert_eq!(buffers.take(45_000), None, "100,000 is more than twice as much");
        assert_eq!(buffers.take(100), None);
    }

    #[test]
    fn the_oldest_goes_where_the_limit_is_reached() {
        let buffers = Buffers::default();
        buffers.limit(4 * 120_000);
        for len in [50_000, 60_000, 70_000, 200_000] {
            buffers.give(Vec::with_capacity(len));
        }
        // 200,000 are more than may wait at all; 70,000 left no room for the two before
        assert_eq!(buffers.bytes(), 4 * 70_000);
        buffers.limit(4);
        assert_eq!(buffers.bytes(), 0);
    }
}
