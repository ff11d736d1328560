//! Panics of libraries that read untrusted files become errors of ours.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static GUARDING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside [`caught`], whose panics become errors: a panic hook should not print them.
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // the command has the only panic hook
pub fn guarding() -> bool {
    GUARDING.get()
}

/// Calls a library; a panic becomes its message.
///
/// # Errors
/// The message of the panic.
pub fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    GUARDING.set(before);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        text.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message_and_the_guard_ends_with_the_call() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(guarding), Ok(true));
        assert_eq!(caught::<()>(|| panic!("index {}", 7)), Err("index 7".to_owned()));
        assert_eq!(
            caught(|| {
                let _ = caught::<()>(|| panic!("inner"));
                guarding()
            }),
            Ok(true)
        );
        assert!(!guarding());
    }
}
