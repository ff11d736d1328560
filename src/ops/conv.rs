//! Conv, with constant weights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Tensor;

use super::activation::masked;
use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::exec::{Exec, Form, Kept, Way};
use super::normalization::Affine;
use super::window::{AUTO_PAD, PADS, STRIDES, image, window};
use super::{Operator, arity};
use crate::Result;
use crate::kernels::{Backward, Bits, Conv2d, Epilogue, Precision, Window, buffers};
use crate::profile::Direction;

pub const CONV: Operator = Operator {
    name: "Conv",
    inputs: &[arity(7, 2, 3)],
    attributes: &[
        AUTO_PAD,
        Attribute::optional("dilations", Kind::Ints),
        Attribute::int("group", 1),
        Attribute::optional("kernel_shape", Kind::Ints),
        PADS,
        STRIDES,
    ],
    lower,
};

/// A convolution with frozen weights over images of one size; weights are packed on first use.
pub struct ConvSpec {
    pub window: Window,
    pub groups: usize,
    /// In, out.
    pub channels: [usize; 2],
    /// H, W.
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// (O, C / groups, kh, kw).
    pub weight: Tensor,
    pub bias: Option<Vec<f32>>,
    packed: OnceLock<Conv2d>,
    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) on_gpu: OnceLock<crate::kernels::cuda::Frozen>,
}

impl ConvSpec {
    /// The same convolution with its output channels multiplied by `scale` and moved by `shift`.
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
            #[cfg(feature = "cuda")]
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

    /// Operations of a pass over `images`; one in either direction takes as many.
    fn flops(&self, images: usize) -> u64 {
        let all = || {
            let [oh, ow] = self.output;
            oh * ow * self.channels[1] * self.channels[0] / self.groups.max(1) * self.window.taps()
        };
        // without those that fall into the padding, where that is known
        2 * (self.packed.get().map_or_else(all, Conv2d::products) * images) as u64
    }

    /// Bytes of the weights packed for one direction, about: Winograd's form of a 3x3 kernel has 36 values for 9.
    fn packed_bytes(&self) -> usize {
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

    /// The gradient with respect to the input, and what is done to it on its way to memory.
    pub fn input_grad(&self, dy: &Array, back: Backward, precision: Precision) -> Result<Array> {
        let n = dy.dims()[0];
        let shape = [n, self.channels[0], self.input[0], self.input[1]];
        let mut dx = buffers::take(shape.iter().product());
        self.packed()?.input_grad_in(precision, &dy.read()?, n, &mut dx, back);
        Array::new(dx, &shape)
    }
}

/// A convolution by its node's place in the file, and by that of a node whose factors it took in.
type ConvKey = (usize, Option<usize>);

/// Convolutions of one file: lowering for another batch finds the packed weights here.
#[derive(Default)]
pub struct ConvCache(Mutex<HashMap<ConvKey, Arc<ConvSpec>>>);

impl ConvCache {
    fn get(
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

    /// The convolution `conv` of the node at `node` with the factors and summands of the node at `after` taken in.
    pub fn joined(
        &self,
        node: usize,
        conv: &ConvSpec,
        after: usize,
        affine: &Affine,
    ) -> Result<Arc<ConvSpec>> {
        self.get((node, Some(after)), conv.input, || conv.scaled(&affine.scale, &affine.shift))
    }
}

fn lower(call: &Call) -> Result<Lowered> {
    let [n, c, h, w] = image(call, 0)?;
    let (o, per_group, kernel) = match *call.float_shape(1)? {
        [o, i, kh, kw] if o > 0 && i > 0 && kh > 0 && kw > 0 => (o, i, [kh, kw]),
        ref other => {
            return Err(
                call.error(format!("weights of shape {other:?}, expected (out, in / group, height, width)"))
            );
        }
    };
    let group = call.int("group").unwrap_or(1);
    let groups = usize::try_from(group).ok().filter(|&g| g > 0 && g <= o && o % g == 0);
    let Some(groups) = groups.filter(|g| per_group.checked_mul(*g) == Some(c)) else {
        return Err(call.error(format!(
            "weights for {o} channels from {per_group} in each of {group} groups, but the input has {c} channels"
        )));
    };
    let weight = call.constant(1)?.ok_or_else(|| call.error("the weights are missing"))?.clone();
    let bias = if call.has(2) { Some(call.vector(2, o)?) } else { None };
    let (window, output) = window(call, Some(kernel), [h, w], false)?;
    let padded = [h + window.pads[0] + window.pads[2], w + window.pads[1] + window.pads[3]];
    call.elements(&[n, c, padded[0], padded[1]])?;
    let shape = vec![n, o, output[0], output[1]];
    call.elements(&shape)?;
    let spec = ConvSpec {
        window,
        groups,
        channels: [c, o],
        input: [h, w],
        output,
        weight,
        bias,
        packed: OnceLock::new(),
        #[cfg(feature = "cuda")]
        on_gpu: OnceLock::new(),
    };
    let conv = call.convs.get((call.index, None), [h, w], || Ok(spec))?;
    call.run(shape, true, Conv(conv, call.precision))
}

pub(super) struct Conv(pub(super) Arc<ConvSpec>, pub(super) Precision);

impl Exec for Conv {
    #[cfg(feature = "cuda")]
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Kept>) -> Result<Array> {
        self.0.forward(&x[0], Epilogue::default(), self.1)
    }

    fn vjp(&self, kept: &Kept, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        self.vjp_on_the_way(kept, dy, want, Way::default())
    }

    fn vjp_on_the_way(&self, _: &Kept, dy: Array, _: &[bool], way: Way) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(self.0.input_grad(&dy, way.back, self.1)?)])
    }

    fn form(&self) -> Form<'_> {
        Form::Conv(&self.0)
    }

    fn flops(&self, images: usize, _: Direction) -> u64 {
        self.0.flops(images)
    }

    fn packed_bytes(&self) -> usize {
        self.0.packed_bytes()
    }
}

/// A convolution, a sum with another value of the output's shape and a Relu (either may be absent) in one pass.
pub struct JoinedConv {
    pub conv: Arc<ConvSpec>,
    pub residual: bool,
    pub relu: bool,
    pub precision: Precision,
}

impl Exec for JoinedConv {
    #[cfg(feature = "cuda")]
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Kept>) -> Result<Array> {
        let [oh, ow] = self.conv.output;
        let n = x[0].dims()[0];
        let mut mask = (self.relu && keep.is_some()).then(|| Bits::new(n, oh * ow * self.conv.channels[1]));
        let residual = x.get(1).filter(|_| self.residual).map(Array::read).transpose()?;
        let epilogue =
            Epilogue { residual: residual.as_deref(), relu: self.relu, mask: mask.as_mut(), also: None };
        let y = self.conv.forward(&x[0], epilogue, self.precision)?;
        if let (Some(keep), Some(mask)) = (keep, mask) {
            keep.bits(mask);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, dy: Array, want: &[bool]) -> Result<Vec<Option<Array>>> {
        self.vjp_on_the_way(kept, dy, want, Way::default())
    }

    fn vjp_on_the_way(&self, kept: &Kept, dy: Array, want: &[bool], way: Way) -> Result<Vec<Option<Array>>> {
        let dy = if self.relu && !way.masked { masked(kept, dy)? } else { dy };
        let dx = if want[0] { Some(self.conv.input_grad(&dy, way.back, self.precision)?) } else { None };
        let mut grads = vec![dx];
        if self.residual {
            grads.push(want.get(1).copied().unwrap_or(false).then_some(dy));
        }
        Ok(grads)
    }

    fn form(&self) -> Form<'_> {
        Form::JoinedConv { relu: self.relu }
    }

    fn flops(&self, images: usize, _: Direction) -> u64 {
        self.conv.flops(images)
    }

    fn packed_bytes(&self) -> usize {
        self.conv.packed_bytes()
    }
}
