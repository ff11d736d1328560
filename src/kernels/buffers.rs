//! Memory for activations, out of the buffers of the run that a thread belongs to.

pub use crate::base::buffers::MOST;
use crate::base::runtime;

/// `len` floats of unspecified (but initialised) value: an earlier buffer where one fits, else zeros.
pub fn take(len: usize) -> Vec<f32> {
    let Some(mut buffer) = runtime::with_buffers(|b| b.take(len)) else { return vec![0.0; len] };
    // cut short, or zeros for what was cut off when it was taken before
    buffer.resize(len, 0.0);
    buffer
}

/// Hands a buffer back for a later [`take`]. More than the run's limit is never kept: the oldest go first.
pub fn give(buffer: Vec<f32>) {
    runtime::with_buffers(|b| b.give(buffer));
}

/// Floats for a while, of unspecified (but initialised) value: they go back to the buffers by themselves, and never need to
/// be written anew because an earlier use of them was for fewer.
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

/// Lets at most `bytes` wait from now on, in the run that this thread belongs to. Less costs time, never a result.
pub fn limit(bytes: usize) {
    runtime::with_buffers(|b| b.limit(bytes));
}

/// Frees all that waits in the run that this thread belongs to, and hands what is free back to the system.
pub fn clear() {
    runtime::with_buffers(|b| b.clear());
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
