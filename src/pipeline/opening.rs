//! A device that is made ready while images are read: for a GPU that takes as long.

use super::{Job, RunOptions, classifier::Classifier};
use crate::{
    Result,
    device::{Choice, Place},
    kernels::gpu,
    verify::reference::Reference,
};

/// A device, and on it the network of a model.
pub(super) struct Opened<'a> {
    pub place: Place,
    /// None where neither model nor preprocessing says for what size of image; the error where it cannot be lowered.
    network: Option<Result<Reference<'a>>>,
}

/// Refuses before any work what takes no time to refuse; a GPU is left to [`open`].
///
/// # Errors
/// As [`Place::open`] and [`Place::precision`].
pub(super) fn check(job: &Job<'_>, run: &RunOptions) -> Result<()> {
    if gpu::BUILT && run.device != Choice::Cpu {
        return Ok(());
    }
    Place::open(run.device)?.precision(job.settings.precision).map(|_| ())
}

/// The device that `run` asks for, and on it the network, ready to be asked.
///
/// # Errors
/// As [`Place::open`].
pub(super) fn open<'a>(job: &Job<'_>, run: &RunOptions, classifier: &Classifier<'a>) -> Result<Opened<'a>> {
    let place = Place::open(run.device)?;
    // what is wrong with the size is said where the images are read
    let target = classifier.target(&job.preprocessing);
    let Ok((channels, Some([h, w]))) = target.map(|t| (t.channels, t.size)) else {
        return Ok(Opened { place, network: None });
    };
    let network = Reference::new(classifier.model, [channels, h, w], place.device());
    let ready = network.and_then(|network| network.make_ready().map(|()| network));
    Ok(Opened { place, network: Some(ready) })
}

impl<'a> Opened<'a> {
    /// The place and the network for images of `shape`.
    ///
    /// # Errors
    /// As [`Reference::new`].
    pub fn for_shape(self, classifier: &Classifier<'a>, shape: [usize; 3]) -> Result<(Place, Reference<'a>)> {
        let network = match self.network {
            Some(network) => network?,
            None => Reference::new(classifier.model, shape, self.place.device())?,
        };
        Ok((self.place, network))
    }
}
