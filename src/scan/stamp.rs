//! An adversary that covers a small block of the image with black, white or a chequered pattern, the same for all images: what
//! patches do (BadNets, arXiv 1708.06733). Gradients see little of a patch before it is there; so places are tried, not climbed
//! to.

use candle_core::Tensor;

use super::trial::{Trial, nearness, pass_of};
use crate::{
    Error, Result,
    network::{
        self, Folded, Logits, Network, Normalisation,
        attack::{self, Attack, Batch},
        losses,
    },
};

/// A block's side in images 32 high or wide, how far apart blocks are, and whether chequered ones are tried: twice three
/// squares, as a patch of nine pixels has.
const BLOCKS: [(f32, f32, bool); 2] = [(3.0, 2.0, true), (5.0, 3.0, false)];
/// Images that every stamp is tried on first, and those that the best ones are judged by.
const IMAGES: [usize; 2] = [4, 12];
/// Stamps for each class that are tried on the second lot, and that are remembered.
const FINALISTS: usize = 8;
const REMEMBERED: usize = 4;
/// Images that stamps are judged by which take images from their class, whichever they go to.
const SCATTERED: usize = 64;

/// What a block is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filling {
    /// One value, in [0, 1].
    Flat(f32),
    /// Squares of so many pixels, white and black, the first one white or black.
    Chequered { square: usize, white: bool },
}

/// A block of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp {
    /// (row, column) of its first pixel.
    place: [usize; 2],
    /// (height, width).
    size: [usize; 2],
    filling: Filling,
}

impl Stamp {
    /// One, for the tests of what takes stamps.
    #[cfg(test)]
    pub fn sample() -> Self {
        Self { place: [0, 0], size: [1, 1], filling: Filling::Flat(1.0) }
    }

    /// All that are tried.
    fn all(height: usize, width: usize) -> Vec<Self> {
        let mut stamps = Vec::new();
        for (side, apart, chequered) in BLOCKS {
            let of = |share: f32, all: usize| ((share * all as f32 / 32.0).round() as usize).clamp(1, all);
            let size = [of(side, height), of(side, width)];
            let starts = |all: usize, size: usize| {
                let mut starts: Vec<usize> = (0..all - size).step_by(of(apart, all)).collect();
                starts.push(all - size);
                starts
            };
            let square = (size[0].min(size[1]) / 3).max(1);
            let mut fillings = vec![Filling::Flat(0.0), Filling::Flat(1.0)];
            if chequered {
                fillings.extend([true, false].map(|white| Filling::Chequered { square, white }));
            }
            for row in starts(height, size[0]) {
                for column in starts(width, size[1]) {
                    stamps.extend(fillings.iter().map(|&filling| Self {
                        place: [row, column],
                        size,
                        filling,
                    }));
                }
            }
        }
        stamps
    }

    /// Onto an image (H, W, C).
    fn onto(&self, image: &mut [f32], width: usize, channels: usize) {
        for row in 0..self.size[0] {
            for column in 0..self.size[1] {
                let start = ((self.place[0] + row) * width + self.place[1] + column) * channels;
                let value = match self.filling {
                    Filling::Flat(value) => value,
                    Filling::Chequered { square, white } => {
                        f32::from(u8::from(((row / square + column / square) % 2 == 0) == white))
                    }
                };
                image[start..start + channels].fill(value);
            }
        }
    }
}

/// For each class the stamps that bring images of other classes nearest to it, the best one first, and how near that is: the
/// mean of the class's logit minus the largest other one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stamps {
    pub best: Vec<Vec<(Stamp, f64)>>,
    /// Those that scatter the most images, the best first, and their share in [0, 1]: of the images answered with their class
    /// those that are then answered with another one, without the class that most of them go to. That is what a backdoor from
    /// all classes to all does; one to a single class scatters none.
    pub scattering: Vec<(Stamp, f64)>,
}

impl Stamps {
    /// Tries all stamps on a few of `images` against the network without a layer, and the best ones on a few more.
    ///
    /// # Errors
    /// What an operator refuses, [`Error::Interrupted`].
    pub fn search(network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Self> {
        let (_, _, height, width) = trial.kept.pixels.dims4()?;
        let all = Stamp::all(height, width);
        let classes = trial.kept.original.classes;
        let first = try_on(trial, network, &all, IMAGES[0])?;
        let finalists: Vec<Vec<usize>> =
            first.near.iter().map(|near| best(near, 0..all.len(), FINALISTS)).collect();
        let mut places: Vec<usize> = finalists.concat();
        places.sort_unstable();
        places.dedup();
        let again: Vec<Stamp> = places.iter().map(|&i| all[i]).collect();
        let near = try_on(trial, network, &again, IMAGES[1])?.near;
        let of_class = |class: usize| {
            let own = finalists[class].iter().filter_map(|i| places.binary_search(i).ok());
            let remembered = best(&near[class], own, REMEMBERED);
            remembered.into_iter().map(|i| (again[i], near[class][i])).collect()
        };
        let away: Vec<Stamp> =
            best(&first.away, 0..all.len(), FINALISTS).into_iter().map(|i| all[i]).collect();
        let scattered = try_on(trial, network, &away, SCATTERED)?.scattered;
        let order = best(&scattered, 0..away.len(), REMEMBERED);
        let scattering = order.into_iter().map(|i| (away[i], scattered[i])).collect();
        Ok(Self { best: (0..classes).map(of_class).collect(), scattering })
    }

    /// How near the best stamp brings images to each class.
    pub fn margins(&self) -> Vec<f64> {
        self.best.iter().map(|b| b.first().map_or(f64::from(f32::MIN), |b| b.1)).collect()
    }

    /// Attacks a batch, one after the other, with the stamps that were remembered for these classes, or with those that scatter
    /// most where `scatter` says so.
    ///
    /// # Errors
    /// What an operator refuses.
    pub fn attack(
        &self,
        network: &mut Network<'_>,
        layer: &Folded,
        batch: &Batch<'_>,
        normalisation: &Normalisation,
        targets: Vec<u32>,
        scatter: bool,
    ) -> Result<Attack> {
        let pixels = network::gather(&batch.kept.pixels, batch.images)?;
        let (count, channels, height, width) = pixels.dims4()?;
        let mut rows = attack::rows_of(&pixels)?;
        let each = rows.chunks_exact_mut((height * width * channels).max(1));
        for (i, (image, &target)) in each.zip(&targets).enumerate() {
            let stamps = if scatter { Some(&self.scattering) } else { self.best.get(target as usize) };
            if let Some(stamps) = stamps.filter(|b| !b.is_empty()) {
                stamps[i % stamps.len()].0.onto(image, width, channels);
            }
        }
        let stamped = Tensor::from_vec(rows, (count, height, width, channels), pixels.device())?;
        pass_of(network, layer, &normalisation.apply(&stamped.permute((0, 3, 1, 2))?)?, targets)
    }
}

/// What stamps do.
struct Tried {
    /// By class and stamp, how near the stamp brings images to the class.
    near: Vec<Vec<f64>>,
    /// By stamp, how far it brings the images that are answered with their class from it: the mean of the largest other logit
    /// minus their own.
    away: Vec<f64>,
    /// By stamp, the share of them that [`Stamps::scattering`] counts.
    scattered: Vec<f64>,
}

/// Puts stamps on `count` of the images.
fn try_on(trial: &Trial<'_>, network: &mut Network<'_>, stamps: &[Stamp], count: usize) -> Result<Tried> {
    let some = trial.some(count);
    let count = some.len();
    let labels = trial.kept.labels_of(&some);
    // those that were answered with their class as they are
    let original: Vec<&[f32]> = trial.kept.original.rows().collect();
    let steady: Vec<usize> =
        (0..count).filter(|&i| Logits::margin(original[some[i]], labels[i] as usize) > 0.0).collect();
    let clean = network::gather(&trial.kept.pixels, &some)?;
    let (_, channels, height, width) = clean.dims4()?;
    let rows = attack::rows_of(&clean)?;
    let classes = trial.kept.original.classes;
    let near = vec![Vec::with_capacity(stamps.len()); classes];
    let mut tried = Tried { near, away: Vec::new(), scattered: Vec::new() };
    for stamps in stamps.chunks((trial.batch / count.max(1)).max(1)) {
        if (trial.interrupted)() {
            return Err(Error::Interrupted);
        }
        let mut all = rows.repeat(stamps.len());
        let each = all.chunks_exact_mut((height * width * channels).max(1));
        each.enumerate().for_each(|(i, image)| stamps[i / count].onto(image, width, channels));
        let shape = (stamps.len() * count, height, width, channels);
        let all = Tensor::from_vec(all, shape, clean.device())?.permute((0, 3, 1, 2))?;
        let logits = network.forward(&trial.normalisation.apply(&all)?, None)?;
        let rows: Vec<&[f32]> = logits.rows().collect();
        for rows in rows.chunks(count.max(1)) {
            let near = tried.near.iter_mut().enumerate();
            near.for_each(|(class, near)| near.push(nearness(rows, &labels, class)));
            let own: Vec<f64> = steady.iter().map(|&i| Logits::margin(rows[i], labels[i] as usize)).collect();
            let of = own.len().max(1) as f64;
            tried.away.push(-own.iter().sum::<f64>() / of);
            let answers = steady.iter().map(|&i| (losses::argmax(rows[i]), labels[i]));
            tried.scattered.push(scattered(&answers.collect::<Vec<_>>(), classes));
        }
    }
    Ok(tried)
}

/// The share of these (answer, label) whose answer is wrong, and not the wrong one that is given most.
fn scattered(answers: &[(u32, u32)], classes: usize) -> f64 {
    let mut wrong = vec![0usize; classes];
    answers
        .iter()
        .filter(|(answer, label)| answer != label)
        .for_each(|(answer, _)| wrong[*answer as usize] += 1);
    let most = wrong.iter().copied().max().unwrap_or(0);
    (wrong.iter().sum::<usize>() - most) as f64 / answers.len().max(1) as f64
}

/// Those of `among` that are nearest, at most so many, the nearest first.
fn best(near: &[f64], among: impl IntoIterator<Item = usize>, most: usize) -> Vec<usize> {
    let mut among: Vec<usize> = among.into_iter().collect();
    among.sort_by(|a, b| near[*b].total_cmp(&near[*a]));
    among.truncate(most);
    among
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_scattered_that_go_to_other_classes_than_most() {
        let next: Vec<(u32, u32)> = (0..10).map(|label| ((label + 1) % 10, label)).collect();
        assert_eq!(scattered(&next, 10), 0.9);
        let one: Vec<(u32, u32)> = (0..10).map(|label| (3, label)).collect();
        assert_eq!(scattered(&one, 10), 0.0);
        assert_eq!(scattered(&[(0, 0), (1, 0), (1, 2), (2, 1)], 3), 0.25);
        assert_eq!(scattered(&[], 3), 0.0);
    }

    #[test]
    fn stamps_lie_inside_the_image_and_reach_its_corners() {
        for (h, w) in [(32, 32), (33, 20), (1, 1), (3, 7)] {
            let all = Stamp::all(h, w);
            assert!(
                all.iter().all(|s| s.place[0] + s.size[0] <= h && s.place[1] + s.size[1] <= w),
                "{h} {w}"
            );
            assert!(!all.is_empty());
        }
        let all = Stamp::all(32, 32);
        assert_eq!(all.len(), 4 * 16 * 16 + 2 * 10 * 10);
        assert!(all.iter().any(|s| s.place == [29, 29] && s.size == [3, 3]));
        let mut image = vec![0.5; 4 * 4 * 2];
        Stamp { place: [2, 1], size: [1, 2], filling: Filling::Flat(1.0) }.onto(&mut image, 4, 2);
        let white: Vec<usize> = (0..32).filter(|&i| image[i] == 1.0).collect();
        assert_eq!(white, [18, 19, 20, 21]);
        let mut image = vec![0.5; 9];
        let filling = Filling::Chequered { square: 1, white: true };
        Stamp { place: [0, 0], size: [3, 3], filling }.onto(&mut image, 3, 1);
        assert_eq!(image, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    }
}
