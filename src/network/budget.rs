//! The memory plan of a training. It never changes a result: with less memory, tapes are recomputed instead of kept.

use super::frozen::{Network, PerImage};
use crate::{
    Error, Result,
    device::Place,
    kernels::buffers,
    lanes,
    memory::{self, size},
};

/// Convolution scratch per thread: at most 96 tiles of 36 points of 512 channels in and out.
const SCRATCH: usize = 16 << 20;
/// Allocator overhead: 1/20 of what is requested.
const SLACK: usize = 20;

/// Resources of a run. Results do not depend on them.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Memory limit of the process, in bytes. None: the current use plus half of what the system has available, at most
    /// 2.875 GiB.
    pub memory: Option<usize>,
    /// Profile the run by operator.
    pub profile: bool,
    /// Device to run on.
    pub place: Place,
}

/// How much memory a run may take, and what follows from that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Limit of the process, in bytes.
    pub allowed: usize,
    /// Estimated peak use in bytes, including a kept tape.
    pub expected: usize,
    /// Bytes of the clean images' prefix tape, kept or not; 0 if none is needed or it cannot be kept per image.
    pub tape: usize,
    /// Whether that tape is kept. If not, each step against the adversary runs the prefix forward once more.
    pub tape_kept: bool,
}

/// What has to fit into memory.
pub struct Load {
    /// Number of clean images trained on, and held out.
    pub images: [usize; 2],
    /// Images per step.
    pub batch: usize,
    /// Bytes of an image's pixels as floats.
    pub pixels: usize,
    /// Bytes of an image's pixels as they are kept: 8-bit values on a CPU.
    pub kept_pixels: usize,
    /// Whether the adversary of each step needs gradients of the prefix.
    pub attacked: bool,
    /// Images whose adversarial values at the cut are kept in the pool.
    pub pool: usize,
}

impl Memory {
    /// Decides before the run whether the tape fits and is kept, and limits the pool of free buffers.
    ///
    /// # Errors
    /// [`Error::Setting`] if `options.memory` is too little even without the tape.
    pub fn plan(options: &Options, network: &mut Network<'_>, load: &Load) -> Result<Self> {
        let image = network.per_image()?;
        buffers::clear(); // of other sizes than the training needs; must not count as memory in use
        if let Some(gpu) = crate::kernels::gpu::Gpu::of(options.place.device())? {
            return Self::plan_on_gpu(options, gpu.memory()?.0, network.chunk_bytes(), load, image);
        }
        let gradients = network.packed_bytes()?;
        let now = memory::resident().unwrap_or(2 * gradients);
        let allowed = memory::allowed(options.memory, now);
        let step = step_bytes(load, image, network.chunk_bytes());
        let plan = decide(allowed, now.saturating_add(gradients), step, load, image);
        if options.memory.is_some() && plan.expected > allowed {
            let problem = format!(
                "{} is too little: this training takes about {}, even where no tape is kept",
                size(allowed),
                size(plan.expected)
            );
            return Err(Error::setting("memory", problem));
        }
        // free buffers may hold a step's own memory and whatever is left of the limit
        let left = allowed.saturating_sub(plan.expected);
        buffers::limit(step.saturating_add(left).min(buffers::MOST));
        Ok(plan)
    }
}

impl Memory {
    /// [`Memory::plan`] for a GPU with `free` bytes of free memory.
    fn plan_on_gpu(
        options: &Options,
        free: usize,
        chunk: usize,
        load: &Load,
        image: PerImage,
    ) -> Result<Self> {
        let allowed = options.memory.unwrap_or(MOST_ON_GPU.min(free / 2)).min(free);
        let batch = load.batch.min(load.images[0]);
        let attack = if load.attacked || load.pool > 0 {
            2 * image.prefix_tape.unwrap_or(0) + 8 * load.pixels
        } else {
            0
        };
        let step = batch * (5 * image.at_cut + 2 * image.suffix_tape + attack) + 4 * chunk;
        let plan = decide(allowed, WORK_ON_GPU, step, load, image);
        if options.memory.is_some() && plan.expected > allowed {
            let problem = format!(
                "{} is too little: this training takes about {} of the GPU's memory, even where no tape is kept",
                size(allowed),
                size(plan.expected)
            );
            return Err(Error::setting("memory", problem));
        }
        Ok(plan)
    }
}

/// Default limit on a GPU: 3.5 GiB.
const MOST_ON_GPU: usize = 7 << 29;
/// Workspaces of cuDNN and cuBLAS, and the weights: 512 MiB.
const WORK_ON_GPU: usize = 1 << 29;

/// Peak bytes of a step besides what is kept: clean and adversarial values at the cut, their gradients, the layer's
/// outputs, two tapes of each side, the adversary's pixels, a few values of a chunk in each lane.
fn step_bytes(load: &Load, image: PerImage, chunk: usize) -> usize {
    let batch = load.batch.min(load.images[0]);
    let each = 5 * image.at_cut + 2 * image.suffix_tape;
    let attack = 2 * image.prefix_tape.unwrap_or(0) + 8 * load.pixels;
    let threads = rayon::current_num_threads();
    batch * (each + if load.attacked || load.pool > 0 { attack } else { 0 })
        + lanes::at_most(batch) * 4 * chunk
        + threads * SCRATCH
}

/// See [`Memory::plan`]; `taken`: bytes in use already or needed in any case.
fn decide(allowed: usize, taken: usize, step: usize, load: &Load, image: PerImage) -> Memory {
    let kept =
        load.images.iter().sum::<usize>() * (load.kept_pixels + image.at_cut) + 2 * load.pool * image.at_cut;
    let needed = [kept, step].into_iter().fold(taken, usize::saturating_add);
    let needed = needed.saturating_add(needed / SLACK);
    let tape = if load.attacked { load.images[0] * image.prefix_tape.unwrap_or(0) } else { 0 };
    let with_tape = needed.saturating_add(tape).saturating_add(tape / SLACK);
    let tape_kept = tape > 0 && with_tape <= allowed;
    Memory { allowed, expected: if tape_kept { with_tape } else { needed }, tape, tape_kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_tape_is_kept_where_it_fits() {
        let load = Load {
            images: [1000, 0],
            batch: 100,
            pixels: 10_000,
            kept_pixels: 10_000,
            attacked: true,
            pool: 0,
        };
        let image = PerImage { at_cut: 50_000, prefix_tape: Some(100_000), suffix_tape: 1000 };
        let plan = |allowed, load: &Load, image| decide(allowed, 100 * MIB, 20 * MIB, load, image);
        let roomy = plan(1000 * MIB, &load, image);
        assert!(roomy.tape_kept && roomy.tape == 100_000_000 && roomy.expected <= 1000 * MIB);
        let tight = plan(roomy.expected - 1, &load, image);
        assert!(!tight.tape_kept && tight.tape == roomy.tape && tight.expected < roomy.expected - tight.tape);
        assert!(plan(10 * MIB, &load, image).expected > 10 * MIB, "the caller compares with the limit");
        // nothing to keep
        let quiet = Load { attacked: false, ..load };
        assert_eq!((plan(1 << 40, &quiet, image).tape, plan(1 << 40, &quiet, image).tape_kept), (0, false));
        let mixed = PerImage { prefix_tape: None, ..image };
        assert!(!plan(1 << 40, &load, mixed).tape_kept);
    }
}
