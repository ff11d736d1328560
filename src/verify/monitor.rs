//! Interruption and progress of long runs.

use crate::{Error, Result};

/// Callbacks of a long run. The default is never interrupted and reports nothing.
#[derive(Clone, Copy, Default)]
pub struct Monitor<'a> {
    /// Returns true once the run should stop. Called from any thread, several times a second.
    pub interrupted: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Called from any thread with the number of images just processed.
    pub done: Option<&'a (dyn Fn(usize) + Sync)>,
}

impl Monitor<'_> {
    /// # Errors
    /// [`Error::Interrupted`] once the run should stop.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.is_some_and(|interrupted| interrupted()) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Reports `images` more as processed.
    pub fn advance(&self, images: usize) {
        if let Some(done) = self.done {
            done(images);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_stops() {
        let watch = Monitor { interrupted: Some(&|| true), done: None };
        assert_eq!(watch.check().unwrap_err().exit_code(), 130);
        assert!(Monitor::default().check().is_ok());
    }
}
