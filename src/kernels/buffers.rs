//! Memory for activations, from the buffer pool of the calling thread's run.

pub use crate::base::buffers::MOST;
use crate::base::runtime;

/// `len` floats with unspecified (but initialised) values: a reused buffer if one fits, else zeros.
pub fn take(len: usize) -> Vec<f32> {
    let Some(mut buffer) = runtime::with_buffers(|b| b.take(len)) else { return vec![0.0; len] };
    // truncates, or zero-fills what an earlier, shorter use cut off
    buffer.resize(len, 0.0);
    buffer
}

/// Returns a buffer for a later [`take`]. Above the run's limit the oldest buffers are freed.
pub fn give(buffer: Vec<f32>) {
    runtime::with_buffers(|b| b.give(buffer));
}

/// Temporary floats with unspecified (but initialised) values, returned to the pool on drop. Reuse for a larger
/// length does not zero-fill again.
pub struct Scratch {
    whole: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub fn new(len: usize) -> Self {
        let mut whole = runtime::with_buffers(|b| b.take(len)).unwrap_or_else(|| vec![0.0; len]);
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

/// Limits the bytes that wait for reuse in the calling thread's run. A lower limit costs time, never a result.
pub fn limit(bytes: usize) {
    runtime::with_buffers(|b| b.limit(bytes));
}

/// Frees the buffers waiting in the calling thread's run, and returns free memory to the system.
pub fn clear() {
    runtime::with_buffers(|b| b.clear());
    super::allocator::trim();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let len = 7_654_321; // a length that no other test uses
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
        assert_eq!(Scratch::new(len)[len - 1], 42.0, "zero-filled again after a shorter use");
        let small = take(len / 3);
        assert!(small.as_ptr() != at, "a small request does not use up a large buffer");
    }

    #[test]
    fn two_runs_at_once_give_the_bytes_of_either_alone() {
        let convolved = |threads| {
            let work = || {
                use super::super::{Conv2d, Epilogue, Window};
                let weight: Vec<f32> =
                    (0..64 * 64 * 9).map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5).collect();
                let window = Window { pads: [1; 4], ..Window::new([3, 3]) };
                let conv = Conv2d::new(window, 1, [64; 2], [16; 2], &weight, None);
                let x: Vec<f32> = (0..4 * 256 * 64).map(|i| ((i * 53) % 97) as f32 * 0.02 - 1.0).collect();
                let mut y = vec![0.0; x.len()];
                conv.forward(&x, 4, &mut y, Epilogue::default());
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let runtime = runtime::Runtime::new(Some(threads)).unwrap();
            runtime.limit(if threads == 1 { 0 } else { MOST });
            runtime.install(|| (0..20).map(|_| work()).reduce(|a, b| if a == b { a } else { Vec::new() }))
        };
        let alone = convolved(2);
        let at_once = std::thread::scope(|scope| {
            let all = [1, 3].map(|threads| scope.spawn(move || convolved(threads)));
            all.map(|run| run.join().unwrap())
        });
        assert!(alone.as_ref().is_some_and(|bytes| !bytes.is_empty()));
        assert!(at_once.iter().all(|other| *other == alone));
    }
}
