//! The pool of adversarial values at the cut: images are attacked in pixel space a few times in a training, and every
//! step draws from the results. An attack runs the whole network, a draw only the suffix.

use candle_core::Tensor;
use rand::Rng as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

use super::{
    aim::{Aim, Lot, lots_without_aim},
    generator::Generator,
    gradients::add_gradient,
    layer::FoldedGradients,
    losses,
    settings::{PixelPool, Settings},
};
use crate::{
    Result,
    base::profile::Part,
    network::{
        AtCut, Attack, Batch, Climb, Folded, Kept, Network, Pixel, Watch, attack, concatenate, gather,
        scaled_radius,
    },
    scan::{Aimed, Purpose, attack_by},
};

/// Fills of the pool in a training, at most.
pub const FILLS: usize = 5;
/// Steps of the adversary for lots in which each image has its own perturbation.
const STEPS: usize = 2;
/// Steps of the generator, and its L2 radius for images of 3x32x32. Needed besides the way `added`: input-aware
/// triggers score highest by it, but survive a training against it alone.
const GENERATED: (usize, f64) = (8, 10.0);
/// Weight of the pool's loss if only stamps or filters fill it, which do not follow the layer.
const TRIED: f64 = 3.0;
/// Separates the pool's draws from others with the same seed.
const STREAM: u64 = 0x706f_6f6c;

/// Adversarial values at the cut, with the labels of their images.
pub struct Pool {
    values: AtCut,
    labels: Vec<u32>,
    /// Weight of the loss.
    weight: f64,
}

impl Pool {
    /// Images in the pool, at most; the oldest are dropped.
    pub const MOST: usize = 4096;

    /// The pool `before` with another batch; `weight` is the new weight of the loss.
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn with(before: Option<Self>, weight: f64, values: AtCut, labels: Vec<u32>) -> Result<Self> {
        let Some(before) = before else { return Ok(Self { values, labels, weight }) };
        let spare = (before.labels.len() + labels.len()).saturating_sub(Self::MOST).min(before.labels.len());
        let stays = before.labels.len() - spare;
        let join = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            concatenate(&[old.narrow(0, spare, stays)?, new.clone()])
        };
        let crossing = before.values.crossing.iter().zip(&values.crossing).map(|(a, b)| join(a, b));
        Ok(Self {
            values: AtCut {
                edge: join(&before.values.edge, &values.edge)?,
                crossing: crossing.collect::<Result<_>>()?,
            },
            labels: [&before.labels[spare..], &labels].concat(),
            weight,
        })
    }

    /// Draws `count` images uniformly with replacement: their values and labels.
    ///
    /// # Errors
    /// Errors of candle.
    pub fn draw(&self, rng: &mut ChaCha8Rng, count: usize) -> Result<(AtCut, Vec<u32>)> {
        let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..self.labels.len())).collect();
        let pick = |t: &Tensor| gather(t, &rows);
        let crossing = self.values.crossing.iter().map(pick).collect::<Result<_>>()?;
        let labels = rows.iter().map(|&r| self.labels[r]).collect();
        Ok((AtCut { edge: pick(&self.values.edge)?, crossing }, labels))
    }
}

/// Fills the pool.
pub struct PoolFiller<'a> {
    /// The attacks of the lots, in rotation.
    lots: Vec<Lot<'a>>,
    weight: f64,
    aim: Option<&'a Aim>,
    kept: &'a Kept,
    alone: Pixel,
    generator: Generator,
    batch: usize,
    watch: &'a dyn Watch,
}

impl<'a> PoolFiller<'a> {
    /// For images of shape `image` = (C, H, W).
    pub fn new(
        own: PixelPool,
        settings: &Settings,
        image: [usize; 3],
        kept: &'a Kept,
        aim: Option<&'a Aim>,
        watch: &'a dyn Watch,
    ) -> Self {
        let lots = match aim {
            Some(aim) => aim.lots(),
            None => lots_without_aim(),
        };
        let weight = if lots.iter().any(Lot::follows_layer) { 1.0 } else { TRIED };
        let alone = Pixel {
            climb: Climb { steps: STEPS, stop_share: None },
            step: own.step as f32,
            rho: Settings::pixel_rho(image) as f32,
            shared: false,
        };
        let rho = scaled_radius(GENERATED.1, image) as f32;
        let generator = Generator { steps: GENERATED.0, rho };
        Self { lots, weight, aim, kept, alone, generator, batch: settings.batch, watch }
    }

    /// Adds these images to the pool, attacked through the current layer.
    ///
    /// # Errors
    /// Errors of operators; [`crate::Error::Interrupted`].
    pub fn fill(
        &self,
        mut pool: Option<Pool>,
        network: &mut Network<'_>,
        layer: &Folded,
        images: &[usize],
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Pool>> {
        for (lot, images) in self.lots.iter().cycle().zip(images.chunks(self.batch)) {
            let batch = Batch::new(network, layer, self.kept, images, self.watch)?;
            let targets = self.targets(lot, &batch, rng);
            let attack = self.attack(*lot, network, layer, &batch, targets, rng)?;
            pool = Some(Pool::with(pool, self.weight, attack.pass.values, batch.labels)?);
            self.watch.at(network.work());
        }
        Ok(pool)
    }

    /// Target class of each image: that of the lot, unless it is the image's own, else one drawn.
    fn targets(&self, lot: &Lot<'_>, batch: &Batch<'_>, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let labels = &batch.labels;
        let mut targets = match self.aim {
            Some(aim) => labels.iter().map(|&label| aim.draw(rng, label)).collect(),
            None => batch.clean.logits.likeliest_wrong(labels),
        };
        if let Lot::By { class: Some(class), .. } | Lot::Generated(Some(class)) = lot {
            targets.iter_mut().zip(labels).filter(|(_, l)| *l != class).for_each(|(t, _)| *t = *class);
        }
        targets
    }

    fn attack(
        &self,
        lot: Lot<'_>,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        targets: Vec<u32>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Attack> {
        match lot {
            Lot::Alone => Ok(self.alone.towards(network, layer, batch, targets)?.0),
            Lot::By { way, found, .. } => {
                let purpose = Purpose::Train;
                Ok(way.attack(network, Aimed { layer, batch, targets, found, purpose })?.attack)
            }
            Lot::Generated(class) => {
                let class = class.unwrap_or_else(|| targets[rng.random_range(0..targets.len())]);
                self.generator.towards(network, layer, batch, class, rng)
            }
            Lot::Scattered(triggers) => {
                let by = |i: usize| triggers.get(i % triggers.len().max(1)).map(|(trigger, _)| trigger);
                attack_by(network, layer, batch, targets, by)
            }
        }
    }
}

impl Pool {
    /// Gradients with respect to the layer of the weighted cross-entropy of `count` images, drawn for `step` with
    /// `seed`, against their labels.
    ///
    /// # Errors
    /// Errors of operators.
    pub fn gradients(
        &self,
        network: &mut Network<'_>,
        folded: &Folded,
        count: usize,
        [seed, step]: [u64; 2],
    ) -> Result<FoldedGradients> {
        // one random stream per step, so that draws elsewhere do not change these
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ STREAM);
        rng.set_stream(step + 1);
        let (values, labels) = network.timed(Part::Gather, || self.draw(&mut rng, count))?;
        let pass = attack::forward(network, folded, values)?;
        let loss = network.timed(Part::Losses, || losses::cross_entropy(&pass.logits, &labels))?;
        let mut sums = FoldedGradients::default();
        add_gradient(network, &pass, &(loss.gradient * self.weight)?, &mut sums)?;
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_drops_the_oldest_values() {
        let values = |n: usize, v: f32| AtCut {
            edge: Tensor::full(v, (n, 1, 1, 1), &candle_core::Device::Cpu).unwrap(),
            crossing: vec![Tensor::full(v, (n, 2), &candle_core::Device::Cpu).unwrap()],
        };
        let pool = Pool::with(None, 1.0, values(3000, 1.0), vec![1; 3000]).unwrap();
        let pool = Pool::with(Some(pool), 3.0, values(2000, 2.0), vec![2; 2000]).unwrap();
        assert_eq!((pool.labels.len(), pool.weight), (Pool::MOST, 3.0));
        assert_eq!((pool.labels[2095], pool.labels[2096]), (1, 2));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (drawn, labels) = pool.draw(&mut rng, 64).unwrap();
        let edge: Vec<f32> = drawn.edge.flatten_all().unwrap().to_vec1().unwrap();
        assert!(edge.iter().zip(&labels).all(|(v, l)| *v == *l as f32));
    }
}
