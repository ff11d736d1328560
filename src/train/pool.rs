//! Adversarial values that stay: an adversary of the pixels attacks some images a few times in a training, and every step
//! draws from what that brought to the cut. Attacking pixels runs the whole network; drawing runs what comes after the site.

use candle_core::Tensor;
use rand::Rng as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

use super::{
    generator::Generator,
    layer::{FoldedGradients, Trainable},
    run::Run,
    settings::{PixelPool, Settings},
    trainer::{Trainer, no_gradient},
};
use crate::{
    Result,
    network::{
        AtCut, Folded,
        attack::{self, Batch, Pixel},
        concatenate, gather, losses,
    },
    profile::Part,
    scan::{self, Lot, Suspicion, Way},
};

/// How often the pool is filled in a training, at most.
pub const FILLS: usize = 5;
/// Steps of the adversary that fills it, where each image has a perturbation of its own.
const STEPS: usize = 2;
/// The ball of the change added to all images, for 3x32x32: less than suspicion takes, whose changes spoil what they are put on.
const ADDED: f32 = 4.0;
/// The generator's steps and its ball, for 3x32x32. Where an added change is what stands out, a trigger that differs from
/// image to image stays in if that alone is fought, though its class lies nearest to added changes.
const GENERATED: (usize, f64) = (8, 10.0);
/// Weight of the pool's loss where stamps or filters alone fill it: they do not follow the layer, as what climbs does.
const TRIED: f64 = 3.0;
/// Sets the pool's draws apart from others with the same seed.
const STREAM: u64 = 0x706f_6f6c;

/// Adversarial values at the cut that an adversary of the pixels made, kept for the steps to come.
pub struct Pool {
    values: AtCut,
    labels: Vec<u32>,
    /// Of the loss.
    weight: f64,
}

impl Pool {
    /// Rows kept at most: the oldest go first.
    pub const MOST: usize = 4096;

    /// One more batch; `before` is what is there already.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn with(before: Option<Self>, values: AtCut, labels: Vec<u32>) -> Result<Self> {
        let Some(before) = before else { return Ok(Self { values, labels, weight: 1.0 }) };
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
            weight: before.weight,
        })
    }

    /// Values of `count` rows drawn evenly, and their labels.
    ///
    /// # Errors
    /// Candle's own.
    pub fn draw(&self, rng: &mut ChaCha8Rng, count: usize) -> Result<(AtCut, Vec<u32>)> {
        let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..self.labels.len())).collect();
        let pick = |t: &Tensor| gather(t, &rows);
        let crossing = self.values.crossing.iter().map(pick).collect::<Result<_>>()?;
        let labels = rows.iter().map(|&r| self.labels[r]).collect();
        Ok((AtCut { edge: pick(&self.values.edge)?, crossing }, labels))
    }
}

impl Trainer<'_> {
    /// The pool with one more lot of images that an adversary of the pixels has attacked, the layer as it stands.
    pub(super) fn fill(
        &mut self,
        mut pool: Option<Pool>,
        layer: &dyn Trainable,
        suspicion: Option<&Suspicion>,
        rng: &mut ChaCha8Rng,
        run: &Run<'_>,
    ) -> Result<Option<Pool>> {
        let s = &self.settings;
        let Some(PixelPool { images, step }) = s.pool else { return Ok(pool) };
        let alone = Pixel {
            steps: STEPS,
            step: step as f32,
            rho: Settings::pixel_rho(self.image) as f32,
            stop_share: 2.0,
            normalisation: self.normalisation.clone(),
            shared: false,
        };
        let added = scan::added(self.image, &self.normalisation, ADDED);
        let bent = scan::bent(&self.normalisation);
        let generator = Generator {
            steps: GENERATED.0,
            rho: Settings::scaled_rho(GENERATED.1, self.image) as f32,
            normalisation: self.normalisation.clone(),
        };
        let lots = suspicion.map_or_else(|| vec![Lot::By(Way::Added, None), Lot::Alone], Suspicion::lots);
        let tried =
            lots.iter().all(|lot| matches!(lot, Lot::By(Way::Stamped | Way::Filtered, _) | Lot::Scattered));
        let weight = if tried { TRIED } else { 1.0 };
        let folded = layer.fold()?;
        let order: Vec<usize> = self.shuffled(rng).into_iter().take(images).collect();

        for (lot, images) in lots.iter().cycle().zip(order.chunks(s.batch)) {
            let labels = self.kept.labels_of(images);
            let values = self.kept.values(images)?;
            let clean = attack::forward(&mut self.network, &folded, values)?;
            let interrupted = || run.observer.interrupted();
            let batch = Batch {
                kept: &self.kept,
                images,
                labels: &labels,
                clean: &clean,
                step: run.steps,
                interrupted: &interrupted,
            };
            let mut targets = match suspicion {
                Some(suspicion) => labels.iter().map(|&label| suspicion.draw(rng, label)).collect(),
                None => clean.logits.likeliest_wrong(&labels),
            };
            if let Lot::By(_, Some(class)) | Lot::Generated(Some(class)) = lot {
                targets.iter_mut().zip(&labels).filter(|(_, l)| *l != class).for_each(|(t, _)| *t = *class);
            }
            let (network, normalisation) = (&mut self.network, &self.normalisation);
            let attack = match (lot, suspicion) {
                (Lot::By(Way::Bent, _), _) => bent.towards(network, &folded, &batch, targets)?,
                (Lot::By(Way::Stamped, _) | Lot::Scattered, Some(suspicion)) => {
                    let scatter = *lot == Lot::Scattered;
                    suspicion.stamps.attack(network, &folded, &batch, normalisation, targets, scatter)?
                }
                (Lot::By(Way::Filtered, _), Some(suspicion)) => {
                    suspicion.filters.towards(network, &folded, &batch, normalisation, targets)?
                }
                (Lot::By(..), _) => added.towards(network, &folded, &batch, targets)?,
                (Lot::Generated(class), _) => {
                    let class = class.unwrap_or_else(|| targets[rng.random_range(0..targets.len())]);
                    generator.towards(network, &folded, &batch, class, rng)?
                }
                (Lot::Alone | Lot::Scattered, _) => alone.towards(network, &folded, &batch, targets)?,
            };
            pool = Some(Pool { weight, ..Pool::with(pool, attack.pass.values, labels)? });
        }
        Ok(pool)
    }

    /// The layer's gradients of the cross-entropy, with its weight, of `count` values of the pool against their labels.
    pub(super) fn pool_gradients(
        &mut self,
        pool: &Pool,
        folded: &Folded,
        count: usize,
        step: usize,
    ) -> Result<FoldedGradients> {
        // a stream of its own for each step: what is drawn does not depend on who else draws
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed ^ STREAM);
        rng.set_stream(step as u64 + 1);
        let (values, labels) = self.network.timed(Part::Gather, || pool.draw(&mut rng, count))?;
        let pass = attack::forward(&mut self.network, folded, values)?;
        let loss = self.network.timed(Part::Losses, || losses::cross_entropy(&pass.logits, &labels))?;
        let gradient = (loss.gradient * pool.weight)?;
        let edge = self.network.suffix_gradient(&pass.tapes, &gradient)?.edge.ok_or_else(no_gradient)?;
        let mut sums = FoldedGradients::default();
        self.network.timed(Part::Layer, || sums.add(&pass.values.edge, &edge))?;
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_forgets_what_is_oldest() {
        let values = |n: usize, v: f32| AtCut {
            edge: Tensor::full(v, (n, 1, 1, 1), &candle_core::Device::Cpu).unwrap(),
            crossing: vec![Tensor::full(v, (n, 2), &candle_core::Device::Cpu).unwrap()],
        };
        let pool = Pool::with(None, values(3000, 1.0), vec![1; 3000]).unwrap();
        let pool = Pool::with(Some(pool), values(2000, 2.0), vec![2; 2000]).unwrap();
        assert_eq!(pool.labels.len(), Pool::MOST);
        assert_eq!((pool.labels[2095], pool.labels[2096]), (1, 2));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (drawn, labels) = pool.draw(&mut rng, 64).unwrap();
        let edge: Vec<f32> = drawn.edge.flatten_all().unwrap().to_vec1().unwrap();
        assert!(edge.iter().zip(&labels).all(|(v, l)| *v == *l as f32));
    }
}
