//! The preparation common to scan and training: cut the network, plan the memory, cache the clean images.

use std::sync::Arc;

use super::{
    budget::{Load, Memory, Options},
    frozen::{Counts, End, Network},
    kept::{Kept, Samples},
    normalisation::Normalisation,
    record::{Event, RunPart, Watch as _, Watched, WorkPlan},
};
use crate::{Error, Result, graph::Graph, onnx::Model, site::SitePlace};

/// A model, the site and the images.
pub struct Subject<'m, 'a> {
    pub model: &'m Model,
    /// The model lowered already, for any number of images of this shape, to share its decoded and packed weights.
    /// None: it is lowered here.
    pub lowered: Option<Arc<Graph>>,
    pub place: SitePlace,
    /// (C, H, W) of one image.
    pub image: [usize; 3],
    pub normalisation: Normalisation,
    /// Images to scan with or train on.
    pub clean: Samples<'a>,
    /// Images to measure accuracy on.
    pub held_out: Option<Samples<'a>>,
}

/// What the work after the preparation keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Images per step.
    pub batch: usize,
    /// Whether every step needs gradients of the prefix.
    pub attacked: bool,
    /// Images whose adversarial values at the cut are kept besides.
    pub pool: usize,
}

/// The cut network and the cached clean images.
pub struct Prepared<'m> {
    pub network: Network<'m>,
    pub kept: Kept,
    pub held_out: Option<Kept>,
    pub memory: Memory,
}

impl<'m> Prepared<'m> {
    /// Cuts the network, plans the memory and runs the images through once. `plan` returns the parts of the run that
    /// follow.
    ///
    /// # Errors
    /// Errors of lowering and cutting; [`Error::Setting`] without a clean image or with too little memory;
    /// [`Error::Interrupted`].
    pub fn new(
        subject: Subject<'m, '_>,
        demand: Demand,
        options: &Options,
        plan: impl FnOnce(&Network<'_>) -> Vec<(RunPart, u64)>,
        watch: &Watched<'_>,
    ) -> Result<Self> {
        let Subject { model, lowered, place, image, normalisation, clean, held_out } = subject;
        let mut network = match &lowered {
            Some(lowered) if lowered.input_shape().get(1..) == Some(&image) => {
                Network::from_lowered(model, lowered, place, End::Logits)?
            }
            _ => Network::new(model, image, place, End::Logits)?,
        };
        network.place_on(options.place.device());
        let per_image = image.iter().product::<usize>().max(1);
        let [count, held] = [Some(clean), held_out].map(|s| s.map_or(0, |s| s.pixels.len() / per_image));
        let load = Load {
            images: [count, held],
            batch: demand.batch,
            pixels: per_image * size_of::<f32>(),
            kept_pixels: Kept::pixel_bytes(clean.pixels, options.place.device()) * per_image,
            attacked: demand.attacked,
            pool: demand.pool,
        };
        let memory = Memory::plan(options, &mut network, &load)?;
        watch.event(Event::Memory(&memory));
        let total = count + held;
        let keep = (RunPart::Keep, network.work_of(Counts::forward(total)));
        let parts = std::iter::once(keep).chain(plan(&network)).collect();
        watch.plan(&WorkPlan { parts }, true);
        watch.begin(RunPart::Keep, network.work());
        let mut keep = |samples: Samples<'_>, before: usize, keep_tape: bool| {
            Kept::new(&mut network, &normalisation, samples, image, keep_tape, |network, done| {
                watch.event(Event::Kept { done: before + done, total });
                watch.at(network.work());
                watch.check()
            })
        };
        let kept = keep(clean, 0, memory.tape_kept)?;
        let held_out = held_out.filter(|_| held > 0).map(|s| keep(s, count, false)).transpose()?;
        watch.end(network.work(), true);
        if kept.count() == 0 {
            return Err(Error::setting("images", "no clean image is left to train on"));
        }
        Ok(Self { network, kept, held_out, memory })
    }

    /// Accuracy of the network without a layer on all clean images, held out or not, in percent.
    pub fn original_accuracy(&self) -> f64 {
        let sets = || std::iter::once(&self.kept).chain(&self.held_out);
        let all: usize = sets().map(Kept::count).sum();
        let right: usize = sets().map(Kept::answered_rightly).sum();
        100.0 * right as f64 / all.max(1) as f64
    }
}
