//! The losses on logits: values and gradients with respect to the logits. Batches are small (B x K), so these go
//! through candle-nn and candle's autograd; nothing here knows of images or of the layer.

use candle_core::{D, Device, Tensor, Var};
use candle_nn::{loss, ops};

use crate::Result;

/// What keeps the logarithm of 1 - p finite at p = 1, as the published code has it.
const MARGIN: f64 = 1.0001;
/// What the published code adds to a logarithm's argument.
const TINY: f64 = 1e-12;
/// The adversary's cross-entropy is cut off here, per image, as published.
const CE_CLAMP: f32 = 80.0;

/// Logits of a batch: B rows of K.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Shape (B, K), row-major.
    pub tensor: Tensor,
    /// The same numbers.
    pub values: Vec<f32>,
    /// K.
    pub classes: usize,
}

impl Logits {
    /// From a tensor of shape (B, K).
    ///
    /// # Errors
    /// When the tensor is not of rank 2 or not f32.
    pub fn new(tensor: Tensor) -> Result<Self> {
        let (_, classes) = tensor.dims2()?;
        // batches are small: the losses are computed on the processor, wherever the network runs
        let tensor = tensor.detach().contiguous()?.to_device(&Device::Cpu)?;
        let values = tensor.flatten_all()?.to_vec1()?;
        Ok(Self { tensor, values, classes })
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.classes)
    }

    /// How far `class` is ahead in a row: its logit minus the largest other one.
    pub fn margin(row: &[f32], class: usize) -> f64 {
        let others = row.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, v)| *v);
        f64::from(row[class]) - f64::from(others.fold(f32::NEG_INFINITY, f32::max))
    }

    /// The answer for each image: the first largest logit.
    pub fn answers(&self) -> Vec<u32> {
        self.rows().map(argmax).collect()
    }

    /// The likeliest wrong class for each image: argmax with the label's logit set to -10, as published.
    pub fn likeliest_wrong(&self, labels: &[u32]) -> Vec<u32> {
        let wrong = |(row, &label): (&[f32], &u32)| {
            let mut row = row.to_vec();
            if let Some(z) = row.get_mut(label as usize) {
                *z = -10.0;
            }
            argmax(&row)
        };
        self.rows().zip(labels).map(wrong).collect()
    }

    /// The likeliest class that is not the label: the answer, or the runner-up where the answer is the label.
    pub fn top_wrong(&self, labels: &[u32]) -> Vec<u32> {
        let wrong = |(row, &label): (&[f32], &u32)| {
            let best = argmax(row);
            if best != label {
                return best;
            }
            let mut row = row.to_vec();
            row[best as usize] = f32::NEG_INFINITY;
            argmax(&row)
        };
        self.rows().zip(labels).map(wrong).collect()
    }

    /// Share of images answered with `classes`, in [0, 1].
    pub fn share_answered(&self, classes: &[u32]) -> f64 {
        let hits = self.answers().iter().zip(classes).filter(|(a, b)| a == b).count();
        hits as f64 / classes.len().max(1) as f64
    }
}

/// Index of the first largest entry; NaN never wins.
pub fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if *v > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

/// A loss: its value, and its gradient with respect to the logits, shape (B, K).
pub struct Loss {
    pub value: f64,
    pub gradient: Tensor,
}

/// Mean cross-entropy against `labels` (L1, and the warm-up's loss).
///
/// # Errors
/// Candle's own.
pub fn cross_entropy(z: &Logits, labels: &[u32]) -> Result<Loss> {
    differentiate(z, |logits| loss::cross_entropy(logits, &indices(labels)?))
}

/// The adversary's objective, to be made small: the mean over the batch of the cross-entropy against `targets`, each
/// image's clamped to [-80, 80]; beyond the bounds the gradient is zero.
///
/// # Errors
/// Candle's own.
pub fn adversary_objective(z: &Logits, targets: &[u32]) -> Result<Loss> {
    let targets = indices(targets)?;
    differentiate(z, |logits| {
        let ce = per_image_ce(logits, &targets)?;
        // A mask instead of clamp: candle's clamp has slope 1/2 at its bounds.
        let inside = ce.detach().abs()?.le(CE_CLAMP)?.to_dtype(ce.dtype())?;
        let value = (&ce * &inside)?.mean_all()?;
        let outside = ce.detach().clamp(-CE_CLAMP, CE_CLAMP)?.mul(&inside.affine(-1.0, 1.0)?)?.mean_all()?;
        value + outside
    })
}

/// What keeps the answers on clean images: the mean over the batch of the Kullback-Leibler divergence KL(p0 || p), p0 the
/// softmax of `before`, (B, K), p that of `z`. Distillation's loss at temperature 1.
///
/// # Errors
/// Candle's own.
pub fn retention(z: &Logits, before: &Tensor) -> Result<Loss> {
    let log_before = ops::log_softmax(before, D::Minus1)?;
    let before = log_before.exp()?;
    differentiate(z, |logits| {
        let apart = (log_before - ops::log_softmax(logits, D::Minus1)?)?;
        (before * apart)?.sum(D::Minus1)?.mean_all()
    })
}

/// L2, L3 and L4 of the published code on the adversarial logits, and their weighted sum's gradient.
pub struct AdversarialLosses {
    pub l2: f64,
    pub l3: f64,
    pub l4: f64,
    pub gradient: Tensor,
}

/// L2 = CE(a, original); L3 = mean -log(1.0001 - p\[w\]), w the likeliest class that is not the label;
/// L4 = mean -log(1.0001 - p\[t\]). `weights` are those of the three.
///
/// # Errors
/// Candle's own.
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

fn per_image_ce(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    ops::log_softmax(logits, D::Minus1)?.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?.neg()
}

fn differentiate(z: &Logits, f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) -> Result<Loss> {
    let var = Var::from_tensor(&z.tensor)?;
    let value = f(var.as_tensor())?;
    Ok(Loss { value: scalar(&value)?, gradient: gradient_of(&value, &var)? })
}

fn gradient_of(value: &Tensor, var: &Var) -> Result<Tensor> {
    let grads = value.backward()?;
    Ok(match grads.get(var.as_tensor()) {
        Some(g) => g.detach().contiguous()?,
        None => var.as_tensor().zeros_like()?,
    })
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}

fn indices(classes: &[u32]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(classes, classes.len(), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: &[[f32; 3]]) -> Logits {
        Logits::new(Tensor::from_slice(rows.as_flattened(), (rows.len(), 3), &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn wrong_classes() {
        let z = logits(&[[3.0, 2.0, 1.0], [0.0, 5.0, 5.0], [-20.0, -30.0, -40.0]]);
        assert_eq!(z.answers(), [0, 1, 0]);
        // Set to -10, the label of the third image beats all others: the published code's target is the label then.
        assert_eq!(z.likeliest_wrong(&[0, 2, 0]), [1, 1, 0]);
        assert_eq!(z.top_wrong(&[0, 2, 0]), [1, 1, 1]);
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
    fn retention_is_the_divergence_from_the_answers_before() {
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

    #[test]
    fn the_objective_is_clamped_per_image() {
        let z = logits(&[[0.0, 100.0, 0.0], [1.0, 0.0, 0.0]]);
        let l = adversary_objective(&z, &[0, 0]).unwrap();
        let second = f64::ln(1f64.exp() + 2.0) - 1.0;
        assert!((l.value - (80.0 + second) / 2.0).abs() < 1e-4, "{}", l.value);
        let g = l.gradient.to_vec2::<f32>().unwrap();
        assert_eq!(g[0], [0.0; 3]);
        assert!(g[1][0] < 0.0);
    }
}
