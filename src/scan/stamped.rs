//! The way `stamped`: one small black, white or chequered block on all images, like a patch (BadNets, arXiv
//! 1708.06733). All places are tried: the gradient of an image without the patch says little about it.

use candle_core::Tensor;

use super::{
    stamp::Stamp,
    trial::{Trial, nearness},
    trigger::Trigger,
    way::{Aimed, AttackOutcome, Extent, Found, Way},
};
use crate::{
    Result,
    network::{Counts, Logits, Network, attack::rows_of, losses},
};

/// Images per stamp in the first round, and in the second round, of the finalists.
const IMAGES: [usize; 2] = [4, 12];
/// Stamps per class that reach the second round.
const FINALISTS: usize = 8;
/// Stamps kept per class.
const REMEMBERED: usize = 4;
/// Images on which the scattering of stamps is measured.
const SCATTERED: usize = 64;

/// Tries [`Stamp::all`] on a few images, then the best ones on more.
pub struct Stamped;

impl Way for Stamped {
    fn name(&self) -> &'static str {
        "stamped"
    }

    fn meaning(&self) -> &'static str {
        "one small block of all made white, black or chequered"
    }

    fn follows_layer(&self) -> bool {
        false
    }

    fn passes(&self, extent: &Extent) -> Counts {
        let [_, height, width] = extent.image;
        let stamps = Stamp::all(height, width).len();
        // classes share finalists: about half are duplicates
        let finalists = (extent.classes * FINALISTS / 2).min(stamps);
        let each = [(stamps, IMAGES[0]), (finalists, IMAGES[1]), (FINALISTS, SCATTERED)];
        Counts::forward(each.iter().map(|(stamps, images)| stamps * extent.images.min(*images)).sum())
    }

    fn search(&self, network: &mut Network<'_>, trial: &Trial<'_>) -> Result<Found> {
        let [_, height, width] = trial.kept.image()?;
        let all = Stamp::all(height, width);
        let first = try_on(trial, network, &all, IMAGES[0])?;
        let finalists: Vec<Vec<usize>> =
            first.near.iter().map(|near| best(near, 0..all.len(), FINALISTS)).collect();
        let mut places: Vec<usize> = finalists.concat();
        places.sort_unstable();
        places.dedup();
        let again: Vec<Stamp> = places.iter().map(|&i| all[i]).collect();
        let near = try_on(trial, network, &again, IMAGES[1])?.near;
        // per class, as indices into `again`
        let remembered: Vec<Vec<usize>> = (finalists.iter().zip(&near))
            .map(|(own, near)| {
                let own = own.iter().filter_map(|i| places.binary_search(i).ok());
                best(near, own, REMEMBERED)
            })
            .collect();
        let margins: Vec<Option<f64>> =
            (remembered.iter().zip(&near)).map(|(best, near)| best.first().and_then(|&i| near[i])).collect();
        let away: Vec<Stamp> =
            best(&first.away, 0..all.len(), FINALISTS).into_iter().map(|i| all[i]).collect();
        let scattered = try_on(trial, network, &away, SCATTERED)?.scattered;
        let order = best(&scattered, 0..away.len(), REMEMBERED);
        let trigger = |stamp: Stamp| Trigger::Stamp(stamp);
        Ok(Found {
            scores: trial.z_scores(&margins),
            triggers: remembered.iter().map(|own| own.iter().map(|&i| trigger(again[i])).collect()).collect(),
            scattering: order.into_iter().map(|i| (trigger(away[i]), scattered[i])).collect(),
        })
    }

    fn attack(&self, network: &mut Network<'_>, aimed: Aimed<'_>) -> Result<AttackOutcome> {
        aimed.by_found(network)
    }
}

/// Measurements of stamps.
struct Tried {
    /// (class, stamp): mean margin of the class; None without an image of another class.
    near: Vec<Vec<Option<f64>>>,
    /// Per stamp: mean of the largest other logit minus the own class's, over the correctly classified images.
    away: Vec<f64>,
    /// Per stamp: the share of those images in [0, 1] that [`Found::scattering`] counts.
    scattered: Vec<f64>,
}

/// Measures stamps on `count` of the images.
fn try_on(trial: &Trial<'_>, network: &mut Network<'_>, stamps: &[Stamp], count: usize) -> Result<Tried> {
    let some = trial.some(count);
    let count = some.len();
    let labels = trial.kept.labels_of(&some);
    // the correctly classified images
    let original: Vec<&[f32]> = trial.kept.original.rows().collect();
    let steady: Vec<usize> =
        (0..count).filter(|&i| Logits::margin(original[some[i]], labels[i] as usize) > 0.0).collect();
    let clean = trial.kept.pixels(&some)?;
    let (_, channels, height, width) = clean.dims4()?;
    let rows = rows_of(&clean)?;
    let classes = trial.kept.original.classes;
    let near = vec![Vec::with_capacity(stamps.len()); classes];
    let mut tried = Tried { near, away: Vec::new(), scattered: Vec::new() };
    for stamps in stamps.chunks((trial.batch / count.max(1)).max(1)) {
        trial.watch.check()?;
        let mut all = rows.repeat(stamps.len());
        let each = all.chunks_exact_mut((height * width * channels).max(1));
        each.enumerate().for_each(|(i, image)| stamps[i / count].onto(image, width, channels));
        let shape = (stamps.len() * count, height, width, channels);
        let all = Tensor::from_vec(all, shape, clean.device())?.permute((0, 3, 1, 2))?;
        let logits = network.forward(&trial.kept.normalisation.apply(&all)?, None)?;
        trial.watch.at(network.work());
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

/// The share of (answer, label) pairs whose answer is wrong but not the most frequent wrong one.
fn scattered(answers: &[(u32, u32)], classes: usize) -> f64 {
    let mut wrong = vec![0usize; classes];
    answers
        .iter()
        .filter(|(answer, label)| answer != label)
        .for_each(|(answer, _)| wrong[*answer as usize] += 1);
    let most = wrong.iter().copied().max().unwrap_or(0);
    (wrong.iter().sum::<usize>() - most) as f64 / answers.len().max(1) as f64
}

/// At most `most` indices of `among` in descending order of value; those without a value come last.
fn best<V: Copy + Into<Option<f64>>>(
    values: &[V],
    among: impl IntoIterator<Item = usize>,
    most: usize,
) -> Vec<usize> {
    let falling = |a: &usize, b: &usize| match (values[*a].into(), values[*b].into()) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let mut among: Vec<usize> = among.into_iter().collect();
    among.sort_by(falling);
    among.truncate(most);
    among
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_follow_the_most_frequent_wrong_class_are_not_scattered() {
        let next: Vec<(u32, u32)> = (0..10).map(|label| ((label + 1) % 10, label)).collect();
        assert_eq!(scattered(&next, 10), 0.9);
        let one: Vec<(u32, u32)> = (0..10).map(|label| (3, label)).collect();
        assert_eq!(scattered(&one, 10), 0.0);
        assert_eq!(scattered(&[(0, 0), (1, 0), (1, 2), (2, 1)], 3), 0.25);
        assert_eq!(scattered(&[], 3), 0.0);
    }

    #[test]
    fn the_best_come_first_and_those_without_value_last() {
        assert_eq!(best(&[1.0, 3.0, 2.0], 0..3, 2), [1, 2]);
        assert_eq!(best(&[None, Some(-5.0), Some(2.0), None], 0..4, 4), [2, 1, 0, 3]);
    }
}
