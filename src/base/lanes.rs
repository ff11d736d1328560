//! Pieces of work side by side, each on one thread from its start to its end. The kernels share an operator's images out
//! among all threads; where an operator is short, waiting for the slowest thread after each costs more than the operator,
//! and every value goes through the shared cache. A batch cut into pieces of images needs one such wait in all.

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

/// Fewest images that are worth a piece of their own: below it the weights are read for too little.
const FEWEST: usize = 8;

thread_local! {
    static BESIDE: Cell<usize> = const { Cell::new(1) };
}

/// How many lanes work at the time, this thread's among them; 1 outside of [`side_by_side`]. Seconds of a lane are so many
/// times those that passed.
pub fn at_work() -> usize {
    BESIDE.get()
}

/// How many lanes there are: as many as threads.
pub fn lanes() -> usize {
    rayon::current_num_threads()
}

/// How many lanes [`pieces`] of `count` images can keep at work.
pub fn at_most(count: usize) -> usize {
    lanes().min((count / FEWEST).max(1))
}

/// (start, length) of the pieces of at most `most` in which `count` images are best worked on: as many for each lane, and of
/// nearly equal length. Results do not depend on it.
pub fn pieces(count: usize, most: usize) -> Vec<(usize, usize)> {
    let least = count.div_ceil(most.max(1));
    let even = least.next_multiple_of(lanes());
    let parts = if count / even.max(1) < FEWEST { least } else { even };
    let start = |i: usize| i * count / parts.max(1);
    (0..parts).map(|i| (start(i), start(i + 1) - start(i))).collect()
}

/// [`pieces`] for `device`: a GPU takes as many images at a time as it may.
pub fn pieces_on(device: &Device, count: usize, most: usize) -> Vec<(usize, usize)> {
    if device.is_cpu() {
        return pieces(count, most);
    }
    let most = most.max(1);
    (0..count).step_by(most).map(|start| (start, most.min(count - start))).collect()
}

/// Images that a GPU takes at a time, where one image's largest value takes so many bytes: it wants as much work as there is.
pub fn on_a_gpu(bytes: usize) -> usize {
    const BYTES: usize = 256 << 20;
    (BYTES / bytes.max(1)).clamp(1, 256)
}

/// How many images a piece of `length` is run as on `device`, `most` being allowed: on a GPU one of a few sizes, since each has
/// cuDNN look for plans. What is added is zero, and left out of what comes back.
pub fn filled_on(device: &Device, length: usize, most: usize) -> usize {
    const SIZES: [usize; 4] = [32, 64, 128, 256];
    if device.is_cpu() {
        return length;
    }
    SIZES.into_iter().find(|&size| size >= length && size <= most).unwrap_or(length)
}

/// [`side_by_side`] for `device`: on a GPU one after the other, whose operators fill it by themselves.
pub fn work_on<T: Send>(device: &Device, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if device.is_cpu() { side_by_side(count, work) } else { (0..count).map(work).collect() }
}

/// `work(0)` to `work(count - 1)`, what they give in that order. A piece that uses rayon finds one thread there. With fewer
/// pieces than lanes they run one after the other, and each has all threads.
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

/// [`side_by_side`] in `pools`, one lane each.
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

/// Runs `lane` in every pool, and waits for all.
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
