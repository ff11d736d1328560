//! Convolutions with frozen weights, packed once for all graphs lowered from one file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Tensor;

use super::array::Array;
use crate::Result;
use crate::kernels::{Backward, Conv2d, Epilogue, Precision, Window, buffers};

/// A convolution with frozen weights over images of one size. Weights are packed on first use.
pub struct ConvSpec {
    pub window: Window,
    pub groups: usize,
    /// [in, out].
    pub channels: [usize; 2],
    /// [H, W].
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// (O, C / groups, kh, kw).
    pub weight: Tensor,
    pub bias: Option<Vec<f32>>,
    packed: OnceLock<Conv2d>,
    /// Weights and plans on a GPU.
    pub(super) on_gpu: OnceLock<crate::kernels::gpu::Frozen>,
}

impl ConvSpec {
    /// `channels`: [in, out]; `sizes`: [H, W] of the input and of the output.
    pub(super) fn new(
        window: Window,
        groups: usize,
        channels: [usize; 2],
        [input, output]: [[usize; 2]; 2],
        weight: Tensor,
        bias: Option<Vec<f32>>,
    ) -> Self {
        Self {
            window,
            groups,
            channels,
            input,
            output,
            weight,
            bias,
            packed: OnceLock::new(),
            on_gpu: OnceLock::new(),
        }
    }

    /// The same convolution followed by `y * scale + shift` per output channel, folded into the weights.
    pub fn scaled(&self, scale: &[f32], shift: &[f32]) -> Result<Self> {
        let mut weight: Vec<f32> = self.weight.flatten_all()?.to_vec1()?;
        let row = weight.len() / self.channels[1].max(1);
        for (filter, &s) in weight.chunks_exact_mut(row.max(1)).zip(scale) {
            filter.iter_mut().for_each(|w| *w = (f64::from(*w) * f64::from(s)) as f32);
        }
        let bias = (0..self.channels[1])
            .map(|o| {
                let b = self.bias.as_ref().map_or(0.0, |b| f64::from(b[o]));
                (b * f64::from(scale[o]) + f64::from(shift[o])) as f32
            })
            .collect();
        Ok(Self {
            window: self.window.clone(),
            weight: Tensor::from_vec(weight, self.weight.shape(), self.weight.device())?,
            bias: Some(bias),
            packed: OnceLock::new(),
            on_gpu: OnceLock::new(),
            ..*self
        })
    }

    fn packed(&self) -> Result<&Conv2d> {
        if let Some(done) = self.packed.get() {
            return Ok(done);
        }
        let weight: Vec<f32> = self.weight.flatten_all()?.to_vec1()?;
        Ok(self.packed.get_or_init(|| {
            Conv2d::new(
                self.window.clone(),
                self.groups,
                self.channels,
                self.input,
                &weight,
                self.bias.as_deref(),
            )
        }))
    }

    /// Floating-point operations of a pass over `images`, the same in either direction.
    pub(super) fn flops(&self, images: usize) -> u64 {
        let all = || {
            let [oh, ow] = self.output;
            oh * ow * self.channels[1] * self.channels[0] / self.groups.max(1) * self.window.taps()
        };
        // products with padding are not counted where the packed kernel knows them
        2 * (self.packed.get().map_or_else(all, Conv2d::products) * images) as u64
    }

    /// Approximate bytes of the weights packed for one direction: Winograd's transform of a 3x3 kernel has 36 values
    /// for 9.
    pub(super) fn packed_bytes(&self) -> usize {
        let plain = Window { pads: self.window.pads, ..Window::new([3, 3]) };
        let packed = if self.window == plain && self.groups == 1 { 4 } else { 1 };
        packed * 4 * self.weight.elem_count()
    }

    /// (N, C, H, W) to (N, O, OH, OW).
    pub fn forward(&self, x: &Array, epilogue: Epilogue, precision: Precision) -> Result<Array> {
        let n = x.dims()[0];
        let shape = [n, self.channels[1], self.output[0], self.output[1]];
        let mut y = buffers::take(shape.iter().product());
        self.packed()?.forward_in(precision, &x.read()?, n, &mut y, epilogue);
        Array::new(y, &shape)
    }

    /// The gradient with respect to the input; `back` is applied in the same pass.
    pub fn input_grad(&self, dy: &Array, back: Backward, precision: Precision) -> Result<Array> {
        let n = dy.dims()[0];
        let shape = [n, self.channels[0], self.input[0], self.input[1]];
        let mut dx = buffers::take(shape.iter().product());
        self.packed()?.input_grad_in(precision, &dy.read()?, n, &mut dx, back);
        Array::new(dx, &shape)
    }
}

/// Index of the convolution's node, and of the node whose factors were folded into it.
type ConvKey = (usize, Option<usize>);

/// The convolutions of one file, so that lowering for another batch finds the packed weights.
#[derive(Default)]
pub struct ConvCache(Mutex<HashMap<ConvKey, Arc<ConvSpec>>>);

impl ConvCache {
    pub(super) fn get(
        &self,
        key: ConvKey,
        input: [usize; 2],
        make: impl FnOnce() -> Result<ConvSpec>,
    ) -> Result<Arc<ConvSpec>> {
        let mut cache = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match cache.get(&key) {
            Some(known) if known.input == input => Ok(known.clone()),
            _ => {
                let new = Arc::new(make()?);
                cache.insert(key, new.clone());
                Ok(new)
            }
        }
    }

    /// `conv` followed by `y * scale + shift` per output channel. `nodes`: indices of the convolution's node and of
    /// the node with the factors.
    pub fn joined(
        &self,
        nodes: (usize, usize),
        conv: &ConvSpec,
        scale: &[f32],
        shift: &[f32],
    ) -> Result<Arc<ConvSpec>> {
        self.get((nodes.0, Some(nodes.1)), conv.input, || conv.scaled(scale, shift))
    }
}
