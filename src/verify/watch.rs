//! Stopping a long run, and hearing how far it is.

use crate::{Error, Result};

/// What a long run asks and tells. The default is never interrupted and tells nobody.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// True once the run is to stop. Asked from any thread, some times a second.
    pub interrupted: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// Called, from any thread, with the number of images just done.
    pub done: Option<&'a (dyn Fn(usize) + Sync)>,
}

impl Watch<'_> {
    /// # Errors
    /// [`Error::Interrupted`] once the run is to stop.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.is_some_and(|interrupted| interrupted()) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// `images` more are done.
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
    fn a_watch_stops() {
        let watch = Watch { interrupted: Some(&|| true), done: None };
        assert_eq!(watch.check().unwrap_err().exit_code(), 130);
        assert!(Watch::default().check().is_ok());
    }
}
