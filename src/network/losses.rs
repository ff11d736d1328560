//! Logits, and losses on them with their gradients. Logits are small (B x K), so these use candle-nn and candle's
//! autograd. Knows neither images nor the layer.

use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops;

use crate::Result;

/// Bound of the adversary's cross-entropy per image, as published.
const CE_CLAMP: f32 = 80.0;

/// Logits of a batch: B images, K classes.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Shape (B, K), row-major.
    pub tensor: Tensor,
    /// The same numbers, row-major.
    pub values: Vec<f32>,
    /// K.
    pub classes: usize,
}

impl Logits {
    /// From a tensor of shape (B, K).
    ///
    /// # Errors
    /// If the tensor is not of rank 2 or not f32.
    pub fn new(tensor: Tensor) -> Result<Self> {
        let (_, classes) = tensor.dims2()?;
        // logits are small: losses are computed on the processor, whatever device the network runs on
        let tensor = tensor.detach().contiguous()?.to_device(&Device::Cpu)?;
        let values = tensor.flatten_all()?.to_vec1()?;
        Ok(Self { tensor, values, classes })
    }

    /// The rows, K logits each.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.classes)
    }

    /// Margin of `class` in a row: its logit minus the largest other one.
    pub fn margin(row: &[f32], class: usize) -> f64 {
        let others = row.iter().enumerate().filter(|(k, _)| *k != class).map(|(_, v)| *v);
        f64::from(row[class]) - f64::from(others.fold(f32::NEG_INFINITY, f32::max))
    }

    /// The predicted class of each image: its first largest logit.
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

    /// The likeliest class that is not the label: the prediction, or the runner-up if the prediction is the label.
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

    /// Share of images predicted as `classes`, in [0, 1].
    pub fn share_answered(&self, classes: &[u32]) -> f64 {
        let hits = self.answers().iter().zip(classes).filter(|(a, b)| a == b).count();
        hits as f64 / classes.len().max(1) as f64
    }
}

/// Index of the first largest entry, ignoring NaN.
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

/// The objective that the adversary minimises: mean over the batch of the cross-entropy against `targets`, clamped per
/// image to [-80, 80]; outside the gradient is zero.
///
/// # Errors
/// Errors of candle.
pub fn adversary_objective(z: &Logits, targets: &[u32]) -> Result<Loss> {
    let targets = indices(targets)?;
    differentiate(z, |logits| {
        let ce = per_image_ce(logits, &targets)?;
        // a mask, since candle's clamp has slope 1/2 at its bounds
        let inside = ce.detach().abs()?.le(CE_CLAMP)?.to_dtype(ce.dtype())?;
        let value = (&ce * &inside)?.mean_all()?;
        let outside = ce.detach().clamp(-CE_CLAMP, CE_CLAMP)?.mul(&inside.affine(-1.0, 1.0)?)?.mean_all()?;
        value + outside
    })
}

fn per_image_ce(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    ops::log_softmax(logits, D::Minus1)?.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?.neg()
}

pub(crate) fn differentiate(
    z: &Logits,
    f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Loss> {
    let var = Var::from_tensor(&z.tensor)?;
    let value = f(var.as_tensor())?;
    Ok(Loss { value: scalar(&value)?, gradient: gradient_of(&value, &var)? })
}

pub(crate) fn gradient_of(value: &Tensor, var: &Var) -> Result<Tensor> {
    let grads = value.backward()?;
    Ok(match grads.get(var.as_tensor()) {
        Some(g) => g.detach().contiguous()?,
        None => var.as_tensor().zeros_like()?,
    })
}

pub(crate) fn scalar(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}

pub(crate) fn indices(classes: &[u32]) -> candle_core::Result<Tensor> {
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
        // set to -10, the label of the third image still wins, so the published code targets the label
        assert_eq!(z.likeliest_wrong(&[0, 2, 0]), [1, 1, 0]);
        assert_eq!(z.top_wrong(&[0, 2, 0]), [1, 1, 1]);
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
