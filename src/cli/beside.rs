//! Work of a command that does not wait for other work of it: what the processor checks while a GPU trains, what is read while
//! something is made ready.

use super::Context;
use crate::{Error, Result};

/// Both at the same time, the first one on a thread of its own; a panic there is an error.
pub fn beside<A: Send, B>(
    aside: impl FnOnce() -> Result<A> + Send,
    here: impl FnOnce() -> B,
) -> (Result<A>, B) {
    std::thread::scope(|scope| {
        let aside = scope.spawn(aside);
        let here = here();
        (aside.join().unwrap_or_else(|_| Err(Error::internal("a check did not come to its end"))), here)
    })
}

/// On a quarter of the threads: a GPU waits for whoever hands it work, and there must be a core for that.
///
/// # Errors
/// Threads that the system does not give.
pub fn with_few_threads<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let threads = (rayon::current_num_threads() / 4).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(Error::internal)?;
    Ok(pool.install(work))
}

/// For what runs beside something that shows its progress.
pub fn quiet(context: Context) -> Context {
    Context { quiet: true, ..context }
}
