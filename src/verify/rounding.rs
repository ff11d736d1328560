//! What rounding makes of a network: how far a runtime's outputs move when its inputs move by one unit in the last
//! place, and how far its two forms are apart. What two right runtimes may differ by is derived from it.

use std::collections::BTreeMap;

use super::{parity, runtime::Form};
use crate::Result;

/// What an image may differ by in any case.
pub const FLOOR: f64 = parity::TOLERANCE;
/// How many times what rounding makes of an image it may differ by.
pub const TIMES: f64 = 10.0;
/// Beyond this an agreement says nothing.
pub const CEILING: f64 = 1e-2;
/// Directions in which inputs are moved.
pub const MOVES: u32 = 4;

/// Rounding of some images' outputs.
#[derive(Clone, Debug, Default)]
pub struct Rounding {
    by_image: BTreeMap<usize, f64>,
    median: f64,
}

impl Rounding {
    /// Of (image, what rounding makes of it). Images that were not measured count as the median.
    pub fn of(by_image: BTreeMap<usize, f64>) -> Self {
        let median = median(by_image.values().copied().collect());
        Self { by_image, median }
    }

    /// Images measured.
    pub fn images(&self) -> usize {
        self.by_image.len()
    }

    /// Median over the images measured; 0 without any.
    pub fn median(&self) -> f64 {
        self.median
    }

    /// What `image` may differ by: ten times what rounding makes of it, and 1e-4 at least.
    pub fn allowed(&self, image: usize) -> f64 {
        allowed(self.by_image.get(&image).copied().unwrap_or(self.median))
    }
}

/// What may differ of which rounding makes `rounding`.
pub fn allowed(rounding: f64) -> f64 {
    (TIMES * rounding).max(FLOOR)
}

/// For each of the images `x` what rounding makes of its outputs in `form`: the median of their relative distances after
/// each move, and from the other form where that runs. `run` returns one row an image.
///
/// # Errors
/// Errors of `run` in `form`.
pub fn measured(
    run: &dyn Fn(Form, &[f32]) -> Result<Vec<Vec<f32>>>,
    form: Form,
    x: &[f32],
) -> Result<Vec<f64>> {
    let plain = run(form, x)?;
    let numel = x.len() / plain.len().max(1);
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); plain.len()];
    let mut add = |outputs: &[Vec<f32>]| -> Result<()> {
        let differences = parity::differences(outputs, &plain)?;
        all.iter_mut().zip(differences).for_each(|(all, d)| all.push(d.relative));
        Ok(())
    };
    for direction in 0..MOVES {
        add(&run(form, &moved(x, numel, direction))?)?;
    }
    if let Ok(other) = run(form.other(), x) {
        add(&other)?;
    }
    Ok(all.into_iter().map(median).collect())
}

/// Rows of `numel` values, each value moved by one unit in the last place, up or down as its place in the row and
/// `direction` say. Zeros stay.
pub fn moved(x: &[f32], numel: usize, direction: u32) -> Vec<f32> {
    let up = |i: usize| {
        // SplitMix64's finaliser
        let mut z =
            (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(direction) << 32);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 63) == 1
    };
    let one = |(i, &v): (usize, &f32)| match v {
        0.0 => v,
        v if up(i % numel.max(1)) => v.next_up(),
        v => v.next_down(),
    };
    x.iter().enumerate().map(one).collect()
}

/// The middle one; the mean of the middle two. 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or_default();
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => at(n / 2),
        n => (at(n / 2 - 1) + at(n / 2)) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_move_by_one_unit_each_way() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 7.0).collect();
        let y = moved(&x, 32, 0);
        let up = x.iter().zip(&y).filter(|(x, y)| x.next_up() == **y).count();
        let down = x.iter().zip(&y).filter(|(x, y)| x.next_down() == **y).count();
        assert_eq!((up + down, y[20]), (63, 0.0));
        assert!(up > 16 && down > 16, "{up} {down}");
        // the same place of every image the same way, another direction another
        assert!((0..12).all(|i| (y[i] > x[i]) == (y[i + 32] > x[i + 32])));
        assert_ne!(moved(&x, 32, 1), y);
    }

    #[test]
    fn one_wrong_form_does_not_widen_what_is_allowed() {
        let run = |form: Form, x: &[f32]| {
            let wrong = if form == Form::Plain { 0.0 } else { 5.0 };
            Ok(x.chunks(2).map(|x| vec![x[0] + wrong, 1.0]).collect())
        };
        let all = measured(&run, Form::Optimised, &[0.3, 0.4, 0.5, 0.6]).unwrap();
        assert!(all.iter().all(|&one| one < 1e-6), "{all:?}");
        let rounding = Rounding::of(BTreeMap::from([(3, 1e-3), (4, 2e-6), (5, 1e-7)]));
        assert_eq!((rounding.allowed(3), rounding.allowed(0)), (1e-2, FLOOR));
    }
}
