//! Splits the clean images into training and held-out images.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Training and held-out rows, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows held out.
    pub held_out: Vec<usize>,
}

impl Split {
    /// Takes the rows `gone` (ascending) out, and counts the others as if they had never been there.
    pub fn leave_out(&mut self, gone: &[usize]) {
        if gone.is_empty() {
            return;
        }
        for rows in [&mut self.train, &mut self.held_out] {
            rows.retain(|row| gone.binary_search(row).is_err());
            rows.iter_mut().for_each(|row| *row -= gone.partition_point(|g| g < row));
        }
    }
}

/// Chooses among `count` images: at most `per_class` of each class and at most `most` in all, shared between the classes
/// as evenly as their sizes allow. Ascending. Equal arguments give equal rows.
pub fn choose(
    labels: Option<&[u32]>,
    count: usize,
    most: Option<usize>,
    per_class: Option<usize>,
    seed: u64,
) -> Vec<usize> {
    let classes = labels.and_then(|labels| labels.iter().max()).map_or(1, |&m| m as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for row in 0..count {
        members[labels.map_or(0, |labels| labels[row] as usize)].push(row);
    }
    for (class, rows) in members.iter_mut().enumerate() {
        rows.shuffle(&mut of_class(seed, class));
        if labels.is_some() {
            rows.truncate(per_class.unwrap_or(usize::MAX));
        }
    }
    let most = most.unwrap_or(usize::MAX);
    let mut chosen = Vec::new();
    // one of each class in turn, so that small classes are taken whole
    for turn in 0.. {
        let before = chosen.len();
        chosen.extend(members.iter().filter_map(|rows| rows.get(turn)).take(most - before));
        if chosen.len() == before || chosen.len() == most {
            break;
        }
    }
    chosen.sort_unstable();
    chosen
}

/// The generator of a class: its choice does not depend on the other classes.
fn of_class(seed: u64, class: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(class as u64);
    rng
}

/// Holds out the fraction `share` of the images, stratified by class (largest remainder method). Every class keeps at
/// least one training image. Equal labels, share and seed give equal rows.
///
/// # Errors
/// [`Error::Setting`] unless 0 <= share < 1.
pub fn split(labels: &[u32], share: f64, seed: u64) -> Result<Split> {
    if !(0.0..1.0).contains(&share) {
        return Err(Error::setting("holdout", format!("{share}; must be at least 0 and below 1")));
    }
    let classes = labels.iter().max().map_or(0, |&m| m as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        members[label as usize].push(row);
    }
    let mut quota: Vec<usize> = members.iter().map(|m| (m.len() as f64 * share) as usize).collect();
    let wanted = (labels.len() as f64 * share).round() as usize;
    let mut by_remainder: Vec<usize> = (0..classes).filter(|&c| !members[c].is_empty()).collect();
    let remainder = |c: usize| (members[c].len() as f64 * share).fract();
    by_remainder.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b)));
    let missing = wanted.saturating_sub(quota.iter().sum());
    for &c in by_remainder.iter().take(missing) {
        quota[c] += 1;
    }
    let mut split = Split::default();
    for (class, (mut rows, quota)) in members.into_iter().zip(quota).enumerate() {
        let quota = quota.min(rows.len().saturating_sub(1));
        rows.shuffle(&mut of_class(seed, class));
        split.held_out.extend_from_slice(&rows[..quota]);
        split.train.extend_from_slice(&rows[quota..]);
    }
    split.held_out.sort_unstable();
    split.train.sort_unstable();
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[usize], labels: &[u32], classes: usize) -> Vec<usize> {
        let mut n = vec![0; classes];
        rows.iter().for_each(|&r| n[labels[r] as usize] += 1);
        n
    }

    #[test]
    fn the_split_is_balanced_complete_and_seeded() {
        let labels: Vec<u32> = (0..100).map(|i| i % 10).collect();
        let s = split(&labels, 0.2, 7).unwrap();
        assert_eq!(counts(&s.held_out, &labels, 10), [2; 10]);
        let mut all = [s.train.clone(), s.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(s, split(&labels, 0.2, 7).unwrap());
        assert_ne!(s, split(&labels, 0.2, 8).unwrap());
    }

    #[test]
    fn a_choice_is_balanced_bounded_and_seeded() {
        let labels = [vec![0; 50], vec![1; 3], vec![2; 50]].concat();
        let choose = |most, per_class, seed| choose(Some(&labels), labels.len(), most, per_class, seed);
        assert_eq!(counts(&choose(Some(23), None, 0), &labels, 3), [10, 3, 10]);
        assert_eq!(counts(&choose(None, Some(5), 0), &labels, 3), [5, 3, 5]);
        assert_eq!(counts(&choose(Some(4), Some(5), 0), &labels, 3), [2, 1, 1]);
        assert_eq!(choose(Some(23), None, 0), choose(Some(23), None, 0));
        assert_ne!(choose(Some(23), None, 0), choose(Some(23), None, 1));
        assert_eq!(choose(None, None, 7), (0..103).collect::<Vec<_>>());
        assert_eq!(super::choose(None, 9, Some(4), Some(1), 0).len(), 4);
        assert!(choose(Some(0), None, 0).is_empty());
    }

    #[test]
    fn rows_that_are_gone_move_the_others_up() {
        let mut s = Split { train: vec![0, 2, 3, 6], held_out: vec![1, 4, 5] };
        s.leave_out(&[2, 4]);
        assert_eq!(s, Split { train: vec![0, 2, 4], held_out: vec![1, 3] });
    }

    #[test]
    fn the_largest_remainders_fill_the_whole() {
        // 7 of class 0, 4 of class 1, 3 of class 3: shares of 0.25 are 1.75, 1, 0.75; round(3.5) = 4
        let labels = [vec![0; 7], vec![1; 4], vec![3; 3]].concat();
        let s = split(&labels, 0.25, 0).unwrap();
        assert_eq!(counts(&s.held_out, &labels, 4), [2, 1, 0, 1]);
    }

    #[test]
    fn no_class_loses_its_last_image_and_zero_means_none() {
        let labels = [0, 1, 1];
        let s = split(&labels, 0.9, 0).unwrap();
        assert_eq!(counts(&s.train, &labels, 2), [1, 1]);
        assert!(split(&labels, 0.0, 0).unwrap().held_out.is_empty());
        assert!(split(&[], 0.2, 0).unwrap().train.is_empty());
        assert!(split(&labels, 1.0, 0).is_err());
        assert!(split(&labels, -0.1, 0).is_err());
        assert!(split(&labels, f64::NAN, 0).is_err());
    }
}
