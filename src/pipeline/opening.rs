//! Opens the device while images are read, which takes about as long for a GPU.

use super::{Job, RunOptions, classifier::Classifier};
use crate::{
    Result,
    device::{Choice, Place},
    kernels::gpu,
    verify::reference::Reference,
};

/// A device and the network of a model on it.
pub(super) struct Opened<'a> {
    pub place: Place,
    /// None if neither model nor preprocessing gives the image size; the error if it cannot be lowered.
    network: Option<Result<Reference<'a>>>,
}

/// Reports CPU errors before any work; GPU errors are left to [`open`].
///
/// # Errors
/// As [`Place::open`] and [`Place::precision`].
pub(super) fn check(job: &Job<'_>, run: &RunOptions) -> Result<()> {
    if gpu::BUILT && run.device != Choice::Cpu {
        return Ok(());
    }
    Place::open(run.device)?.precision(job.settings.precision).map(|_| ())
}

/// Opens the device of `run` and warms up the network on it.
///
/// # Errors
/// As [`Place::open`].
pub(super) fn open<'a>(job: &Job<'_>, run: &RunOptions, classifier: &Classifier<'a>) -> Result<Opened<'a>> {
    let place = Place::open(run.device)?;
    // an invalid size is reported when the images are read
    let target = classifier.target(&job.preprocessing);
    let Ok((channels, Some([h, w]))) = target.map(|t| (t.channels, t.size)) else {
        return Ok(Opened { place, network: None });
    };
    let network = classifier.network(classifier.model, [channels, h, w], place.device());
    let ready = network.and_then(|network| network.make_ready().map(|()| network));
    Ok(Opened { place, network: Some(ready) })
}

impl<'a> Opened<'a> {
    /// The device and the network for images of `shape`.
    ///
    /// # Errors
    /// As [`Classifier::network`].
    pub fn for_shape(self, classifier: &Classifier<'a>, shape: [usize; 3]) -> Result<(Place, Reference<'a>)> {
        let network = match self.network {
            Some(network) => network?,
            None => classifier.network(classifier.model, shape, self.place.device())?,
        };
        Ok((self.place, network))
    }
}
