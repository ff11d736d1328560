//! The resources of one run: threads, lanes and pooled buffers. Two runs in one process share none of them. Code
//! outside any run uses rayon's global pool and one process-wide buffer pool.
//!
//! ```
//! use polarizer::runtime::Runtime;
//!
//! let runtime = Runtime::new(Some(2))?; // None: one thread a core
//! let threads = runtime.install(rayon::current_num_threads);
//! assert_eq!(threads, 2);
//! # Ok::<(), polarizer::Error>(())
//! ```

use std::{
    cell::RefCell,
    sync::{Arc, LazyLock, OnceLock, Weak},
};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    buffers::Buffers,
    error::{Error, Result},
};

/// Stack size of a worker in bytes: that of a main thread, since a whole run is called on one worker.
const STACK: usize = 8 << 20;

/// Threads and buffers of one run. Results do not depend on the number of threads.
pub struct Runtime {
    pool: ThreadPool,
    /// Keeps the lanes alive: workers hold weak references, so lanes end with the run.
    _lanes: Arc<Lanes>,
    buffers: Arc<Buffers>,
}

/// A single-threaded pool for each lane; started on first use.
#[derive(Default)]
struct Lanes(OnceLock<Vec<ThreadPool>>);

/// The run that a thread belongs to.
#[derive(Clone)]
struct Member {
    buffers: Arc<Buffers>,
    lanes: Weak<Lanes>,
}

thread_local! {
    static MEMBER: RefCell<Option<Member>> = const { RefCell::new(None) };
}

impl Runtime {
    /// Starts `threads` threads. None or 0: the value of `RAYON_NUM_THREADS`, else one thread per core.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system refuses to start them.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::sharing(threads.unwrap_or(0), Arc::default())
    }

    fn sharing(threads: usize, buffers: Arc<Buffers>) -> Result<Self> {
        let lanes = Arc::default();
        let member = Member { buffers: Arc::clone(&buffers), lanes: Arc::downgrade(&lanes) };
        let pool = ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK);
        let pool = pool.start_handler(move |_| MEMBER.set(Some(member.clone()))).build();
        Ok(Self { pool: pool.map_err(Error::internal)?, _lanes: lanes, buffers })
    }

    /// Runs `work` on one of this run's threads and waits for it. Parallel work inside it stays on them. Panics
    /// propagate.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Limits the buffer pool to `bytes`. A lower limit costs time but never changes a result. A training sets its own
    /// limit according to its memory budget.
    pub fn limit(&self, bytes: usize) {
        self.buffers.limit(bytes);
    }

    /// Frees the pooled buffers.
    pub fn clear(&self) {
        self.buffers.clear();
    }

    /// Size of the pooled buffers in bytes.
    pub fn waiting(&self) -> usize {
        self.buffers.bytes()
    }
}

static OUTSIDE: LazyLock<Arc<Buffers>> = LazyLock::new(Arc::default);

/// Calls `work` with the buffers of this thread's run. Not reentrant.
pub(crate) fn with_buffers<T>(work: impl FnOnce(&Buffers) -> T) -> T {
    MEMBER.with_borrow(|member| work(member.as_ref().map_or(&OUTSIDE, |m| &m.buffers)))
}

/// Calls `work` with the lanes of this thread's run: one single-threaded pool per thread, or none if the system
/// refuses to start them.
pub(crate) fn with_lanes<T>(work: impl FnOnce(&[ThreadPool]) -> T) -> T {
    static OUTSIDE: Lanes = Lanes(OnceLock::new());
    let member = MEMBER.with_borrow(Clone::clone);
    match member.as_ref().and_then(|m| m.lanes.upgrade()) {
        Some(lanes) => work(lanes.start(&member)),
        None => work(OUTSIDE.start(&None)),
    }
}

impl Lanes {
    fn start(&self, member: &Option<Member>) -> &[ThreadPool] {
        let pool = |i| {
            let member = member.clone();
            let pool = ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| format!("lane-{i}"));
            pool.start_handler(move |_| MEMBER.set(member.clone())).build()
        };
        let all = || (0..rayon::current_num_threads()).map(pool).collect::<Result<_, _>>();
        self.0.get_or_init(|| all().unwrap_or_default())
    }
}

/// Runs `aside` on `threads` new threads while `here` runs on this one. `aside` shares this run's buffers and has its
/// own lanes. Used for work in parallel with a GPU, which blocks the thread that drives it.
///
/// # Errors
/// Those of `aside`; [`Error::Internal`] if it panics or its threads cannot be started.
pub(crate) fn beside<A: Send, B>(
    threads: usize,
    aside: impl FnOnce() -> Result<A> + Send,
    here: impl FnOnce() -> B,
) -> (Result<A>, B) {
    let buffers = MEMBER.with_borrow(|m| Arc::clone(m.as_ref().map_or(&OUTSIDE, |m| &m.buffers)));
    std::thread::scope(|scope| {
        let aside = scope.spawn(|| Runtime::sharing(threads.max(1), buffers)?.install(aside));
        let here = here();
        (aside.join().unwrap_or_else(|_| Err(Error::internal("work beside a GPU panicked"))), here)
    })
}

#[cfg(test)]
mod tests {
    use std::{panic::AssertUnwindSafe, sync::Barrier};

    use super::*;
    use crate::base::lanes;

    #[test]
    fn two_runs_at_once_share_neither_threads_nor_buffers() {
        let meet = Barrier::new(2);
        let (one, three) = (Runtime::new(Some(1)).unwrap(), Runtime::new(Some(3)).unwrap());
        three.limit(4 * 100_000);
        let inside = |own: usize, len: usize, other: usize| {
            assert_eq!(rayon::current_num_threads(), own);
            with_buffers(|b| b.give(vec![1.0; len]));
            meet.wait(); // both have given
            assert_eq!(with_buffers(Buffers::bytes), 4 * len);
            assert_eq!(with_buffers(|b| b.take(other)), None, "a buffer of the other run");
            let seen = lanes::side_by_side(8, |i| {
                let threads = rayon::current_num_threads();
                (i, threads, with_buffers(Buffers::bytes))
            });
            meet.wait(); // both have looked
            seen
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| one.install(|| inside(1, 200_000, 90_000)));
            (three.install(|| inside(3, 90_000, 200_000)), first.join().unwrap())
        });
        assert_eq!(second, (0..8).map(|i| (i, 1, 800_000)).collect::<Vec<_>>());
        assert_eq!(first, (0..8).map(|i| (i, 1, 360_000)).collect::<Vec<_>>());
        assert_eq!((one.waiting(), three.waiting()), (800_000, 360_000));
        three.install(|| with_buffers(|b| b.give(vec![0.0; 200_000])));
        assert_eq!(three.waiting(), 360_000, "beyond its limit");
        one.clear();
        assert_eq!((one.waiting(), three.waiting()), (0, 360_000));
    }

    #[test]
    fn work_beside_has_the_buffers_of_its_run_even_where_that_has_one_thread() {
        let runtime = Runtime::new(Some(1)).unwrap();
        let (aside, here) = runtime.install(|| {
            let aside = || {
                with_buffers(|b| b.give(vec![0.0; 77_777]));
                Ok(rayon::current_num_threads())
            };
            beside(2, aside, rayon::current_num_threads)
        });
        assert_eq!((aside.unwrap(), here, runtime.waiting()), (2, 1, 4 * 77_777));
        let (fell, here) = beside(1, || -> Result<()> { panic!("aside") }, || 7);
        assert_eq!((fell.unwrap_err().exit_code(), here), (3, 7));
    }

    #[test]
    fn a_panic_comes_out_and_the_run_goes_on() {
        let runtime = Runtime::new(Some(2)).unwrap();
        let fell = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.install(|| panic!("inside"))));
        assert!(fell.is_err());
        assert_eq!(runtime.install(|| 3), 3);
    }
}
