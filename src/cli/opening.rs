//! A device that is made ready while a command reads its files: for a GPU that takes as long.

use std::thread::{self, JoinHandle};

use super::{args::PreprocessingArgs, classifier::Classifier};
use crate::{
    Error, Result,
    device::{Choice, Place},
    kernels::{Precision, gpu},
    verify::reference::Reference,
};

/// Where a training will run.
pub enum Opening {
    Ready(Place),
    Going(JoinHandle<Result<Place>>),
}

impl Opening {
    /// Begins. What takes no time is done at once, and refused at once; a GPU that cannot be opened is said where it is needed.
    ///
    /// # Errors
    /// As [`Place::open`] and [`Place::precision`].
    pub fn of(device: Choice, precision: Option<Precision>) -> Result<Self> {
        if gpu::BUILT && device != Choice::Cpu {
            return Ok(Self::Going(thread::spawn(move || Place::open(device))));
        }
        let place = Place::open(device)?;
        place.precision(precision)?;
        Ok(Self::Ready(place))
    }

    fn place(self) -> Result<Place> {
        match self {
            Self::Ready(place) => Ok(place),
            Self::Going(thread) => {
                thread.join().unwrap_or_else(|_| Err(Error::internal("a device was not made ready")))
            }
        }
    }

    /// The place, and on it the network, ready to be asked; None where its file does not say for what size of image.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn with_network<'a>(
        self,
        preprocessing: &PreprocessingArgs,
        classifier: &'a Classifier,
    ) -> Result<(Place, Option<Result<Reference<'a>>>)> {
        let place = self.place()?;
        // what is wrong with these is said where the images are read
        let target = preprocessing.preprocessing().and_then(|p| classifier.target(&p));
        let Ok((channels, Some([h, w]))) = target.map(|t| (t.channels, t.size)) else {
            return Ok((place, None));
        };
        let network = Reference::new(&classifier.model, [channels, h, w], place.device());
        let ready = network.and_then(|network| network.make_ready().map(|()| network));
        Ok((place, Some(ready)))
    }
}
