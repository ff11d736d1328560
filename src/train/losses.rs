//! The training's losses with their gradients with respect to the logits, named as in the published code.

use candle_core::{D, Tensor, Var};
use candle_nn::{loss, ops};

use crate::{
    Result,
    network::{
        Logits,
        losses::{Loss, differentiate, gradient_of, indices, scalar},
    },
};

/// Keeps log(1 - p) finite at p = 1, as published.
const MARGIN: f64 = 1.0001;
/// Added to the logarithm's argument, as published.
const TINY: f64 = 1e-12;

/// Mean cross-entropy against `labels` (L1, and the warm-up's loss).
///
/// # Errors
/// Errors of candle.
pub fn cross_entropy(z: &Logits, labels: &[u32]) -> Result<Loss> {
    differentiate(z, |logits| loss::cross_entropy(logits, &indices(labels)?))
}

/// The retention loss: mean over the batch of the Kullback-Leibler divergence KL(p0 || p), with p0 the softmax of
/// `before`, (B, K), and p that of `z`. It is distillation at temperature 1.
///
/// # Errors
/// Errors of candle.
pub fn retention(z: &Logits, before: &Tensor) -> Result<Loss> {
    let log_before = ops::log_softmax(before, D::Minus1)?;
    let before = log_before.exp()?;
    differentiate(z, |logits| {
        let apart = (log_before - ops::log_softmax(logits, D::Minus1)?)?;
        (before * apart)?.sum(D::Minus1)?.mean_all()
    })
}

/// L2, L3 and L4 of the published code on the adversarial logits, and the gradient of their weighted sum.
pub struct AdversarialLosses {
    pub l2: f64,
    pub l3: f64,
    pub l4: f64,
    pub gradient: Tensor,
}

/// L2 = CE(a, original); L3 = mean -log(1.0001 - p\[w\]), w the likeliest class that is not the label;
/// L4 = mean -log(1.0001 - p\[t\]). `weights`: those of L2, L3, L4.
///
/// # Errors
/// Errors of candle.
pub fn adversarial(
    a: &Logits,
    original: &[u32],
    labels: &[u32],
    targets: &[u32],
    weights: [f64; 3],
) -> Result<AdversarialLosses> {
    let (original, targets, wrong) = (indices(original)?, indices(targets)?, indices(&a.top_wrong(labels))?);
    let var = Var::from_tensor(&a.tensor)?;
    let logits = var.as_tensor();
    let l2 = loss::cross_entropy(logits, &original)?;
    let log_not = (((ops::softmax(logits, D::Minus1)? * -1.0)? + MARGIN)? + TINY)?.log()?;
    let l3 = loss::nll(&log_not, &wrong)?;
    let l4 = loss::nll(&log_not, &targets)?;
    let sum = (((&l2 * weights[0])? + (&l3 * weights[1])?)? + (&l4 * weights[2])?)?;
    let gradient = gradient_of(&sum, &var)?;
    Ok(AdversarialLosses { l2: scalar(&l2)?, l3: scalar(&l3)?, l4: scalar(&l4)?, gradient })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn logits(rows: &[[f32; 3]]) -> Logits {
        Logits::new(Tensor::from_slice(rows.as_flattened(), (rows.len(), 3), &Device::Cpu).unwrap()).unwrap()
    }

    /// Against finite differences of the written-out formulas.
    #[test]
    fn gradients_follow_the_formulas() {
        let rows = [[0.3f32, -1.2, 2.0], [1.5, 1.4, -0.3]];
        let (original, labels, targets) = (vec![2, 0], vec![2, 1], vec![0, 2]);
        let weights = [0.4, 0.3, 0.2];
        let f = |rows: &[[f32; 3]]| -> f64 {
            let z = logits(rows);
            let wrong = logits(&[[0.3f32, -1.2, 2.0], [1.5, 1.4, -0.3]]).top_wrong(&labels);
            let mut sum = 0.0;
            for (i, row) in rows.iter().enumerate() {
                let total: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
                let p = |c: u32| f64::from(row[c as usize]).exp() / total;
                sum += weights[0] * -p(original[i]).ln();
                sum += weights[1] * -(1.0001 - p(wrong[i]) + 1e-12).ln();
                sum += weights[2] * -(1.0001 - p(targets[i]) + 1e-12).ln();
            }
            sum / z.rows().count() as f64
        };
        let got = adversarial(&logits(&rows), &original, &labels, &targets, weights).unwrap();
        let value = weights[0] * got.l2 + weights[1] * got.l3 + weights[2] * got.l4;
        assert!((value - f(&rows)).abs() < 1e-5);
        let gradient = got.gradient.to_vec2::<f32>().unwrap();
        for i in 0..2 {
            for j in 0..3 {
                let (mut up, mut down) = (rows, rows);
                up[i][j] += 1e-2;
                down[i][j] -= 1e-2;
                let numeric = (f(&up) - f(&down)) / f64::from(up[i][j] - down[i][j]);
                assert!((numeric - f64::from(gradient[i][j])).abs() < 2e-4, "{i} {j}");
            }
        }
    }

    /// KL(p0 || p), and its gradient (p - p0) / B.
    #[test]
    fn retention_is_the_divergence_from_the_original_predictions() {
        let (z, before) =
            (logits(&[[0.3, -1.2, 2.0], [1.5, 1.4, -0.3]]), logits(&[[0.0, 0.0, 1.0], [1.5, 1.4, -0.3]]));
        let soft = |row: &[f32]| {
            let total: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
            row.iter().map(|v| f64::from(*v).exp() / total).collect::<Vec<_>>()
        };
        let rows: Vec<_> = z.rows().map(soft).zip(before.rows().map(soft)).collect();
        let value: f64 = rows.iter().flat_map(|(p, q)| p.iter().zip(q)).map(|(p, q)| q * (q / p).ln()).sum();
        let loss = retention(&z, &before.tensor).unwrap();
        assert!((loss.value - value / 2.0).abs() < 1e-6);
        let gradient = loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, (p, q)) in gradient.iter().zip(rows.iter().flat_map(|(p, q)| p.iter().zip(q))) {
            assert!((f64::from(*got) - (p - q) / 2.0).abs() < 1e-6);
        }
    }
}
