//! Lanes: pieces of a batch run in parallel, each on a single thread. Kernels otherwise split every operator over all
//! threads; for short operators the barrier after each costs more than the operator, and every value passes through the
//! shared cache. Lanes need a single barrier per batch.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use candle_core::Device;
use rayon::ThreadPool;

use super::runtime;

/// Smallest worthwhile piece, in images: below it, reading the weights dominates.
const FEWEST: usize = 8;

thread_local! {
    static BESIDE: Cell<usize> = const { Cell::new(1) };
}

/// Number of lanes running (1 outside [`side_by_side`]). Divide a lane's time by it to get wall-clock time.
pub fn at_work() -> usize {
    BESIDE.get()
}

/// Number of lanes: the number of threads.
pub fn lanes() -> usize {
    rayon::current_num_threads()
}

/// Number of lanes that [`pieces`] of `count` images can keep busy.
pub fn at_most(count: usize) -> usize {
    lanes().min((count / FEWEST).max(1))
}

/// Splits `count` images into pieces (start, length) of at most `most` and nearly equal length, the same number for
/// each lane. Results do not depend on the split.
pub fn pieces(count: usize, most: usize) -> Vec<(usize, usize)> {
    let least = count.div_ceil(most.max(1));
    let even = least.next_multiple_of(lanes());
    let parts = if count / even.max(1) < FEWEST { least } else { even };
    let start = |i: usize| i * count / parts.max(1);
    (0..parts).map(|i| (start(i), start(i + 1) - start(i))).collect()
}

/// [`pieces`] for `device`: a GPU gets pieces of `most` images.
pub fn pieces_on(device: &Device, count: usize, most: usize) -> Vec<(usize, usize)> {
    if device.is_cpu() {
        return pieces(count, most);
    }
    let most = most.max(1);
    (0..count).step_by(most).map(|start| (start, most.min(count - start))).collect()
}

/// Images per piece on a GPU, for `bytes` of an image's largest value: as many as fit in 256 MiB, at most 256.
pub fn on_a_gpu(bytes: usize) -> usize {
    const BYTES: usize = 256 << 20;
    (BYTES / bytes.max(1)).clamp(1, 256)
}

/// Batch size for a piece of `length` images on `device`, at most `most`. On a GPU one of a few sizes, because cuDNN
/// plans each size anew. Callers pad with zeros and drop the padding's results.
pub fn filled_on(device: &Device, length: usize, most: usize) -> usize {
    const SIZES: [usize; 4] = [32, 64, 128, 256];
    if device.is_cpu() {
        return length;
    }
    SIZES.into_iter().find(|&size| size >= length && size <= most).unwrap_or(length)
}

/// [`side_by_side`] for `device`: sequential on a GPU, which a single operator fills.
pub fn work_on<T: Send>(device: &Device, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if device.is_cpu() { side_by_side(count, work) } else { (0..count).map(work).collect() }
}

/// Results of `work(0)` to `work(count - 1)` in that order, computed in lanes, where rayon has one thread. With fewer
/// pieces than lanes they run sequentially, each with all threads.
pub fn side_by_side<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if at_work() > 1 {
        return (0..count).map(work).collect(); // a lane has one thread already
    }
    runtime::with_lanes(|pools| {
        if count < pools.len().max(2) || pools.len() < 2 {
            (0..count).map(work).collect()
        } else {
            shared_out(pools, count, &work)
        }
    })
}

/// [`side_by_side`] with one lane in each of `pools`.
fn shared_out<T: Send>(pools: &[ThreadPool], count: usize, work: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    let lane = || {
        BESIDE.set(pools.len());
        loop {
            let piece = next.fetch_add(1, Relaxed);
            if piece >= count {
                return;
            }
            let gives = work(piece);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((piece, gives));
        }
    };
    in_each(pools, &lane);
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(piece, _)| *piece);
    done.into_iter().map(|(_, gives)| gives).collect()
}

/// Runs `lane` in every pool and waits for all.
fn in_each(pools: &[ThreadPool], lane: &(dyn Fn() + Sync)) {
    if let [first, rest @ ..] = pools {
        first.in_place_scope(|scope| {
            scope.spawn(|_| lane());
            in_each(rest, lane);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_images_in_order() {
        for count in [0, 1, 7, 8, 31, 68, 128, 2500] {
            for most in [1, 5, 32, 256] {
                let pieces = pieces(count, most);
                let mut at = 0;
                for (start, length) in pieces {
                    assert_eq!(start, at);
                    assert!(length >= 1 && length <= most, "{count} {most}: {length}");
                    at += length;
                }
                assert_eq!(at, count);
            }
        }
    }

    #[test]
    fn what_pieces_give_comes_in_their_order() {
        let gives = side_by_side(100, |i| {
            assert!(rayon::current_num_threads() == 1 || lanes() == 1);
            i * i
        });
        assert_eq!(gives, (0..100).map(|i| i * i).collect::<Vec<_>>());
        assert!(side_by_side(0, |i| i).is_empty());
    }

    #[test]
    #[should_panic(expected = "piece 3")]
    fn a_panic_comes_out() {
        side_by_side(64, |i| assert!(i != 3, "piece 3"));
    }
}
