//! Operators with GPU kernels. They save the same values in the same order as on the processor, masks and indices as
//! words in the GPU's memory.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;

use super::{
    activation::{Function, Pointwise, Relu, SlopeOf},
    arithmetic::{Add, Gate},
    array::Array,
    conv::{Conv, JoinedConv},
    conv_spec::ConvSpec,
    normalization::{Affine, AffineRelu},
    on_gpu::{GpuVjpContext, OnGpu},
    pool::{Average, Max},
    reduction::OverPixels,
    saved::Saved,
};
use crate::{
    Error, Result,
    kernels::{
        Precision,
        gpu::{After, Convolution, Frozen, Gpu, PointwisePass, WindowGeometry},
    },
};

/// Gets the value, computing it on first use.
fn once<T>(place: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(done) = place.get() {
        return Ok(done);
    }
    let made = make()?;
    Ok(place.get_or_init(|| made))
}

fn first(x: &[Tensor]) -> Result<&Tensor> {
    x.first().ok_or_else(|| Error::internal("an operator without input"))
}

impl Affine {
    /// Factors and summands in the GPU's memory.
    ///
    /// # Errors
    /// Driver errors.
    pub fn factors(&self, gpu: &Gpu) -> Result<&[Tensor; 2]> {
        once(&self.on_gpu, || Ok([gpu.constant(&self.scale)?, gpu.constant(&self.shift)?]))
    }
}

impl ConvSpec {
    fn frozen(&self, gpu: &Gpu) -> Result<&Frozen> {
        once(&self.on_gpu, || {
            let weight: Vec<f32> = self.weight.flatten_all()?.to_vec1()?;
            gpu.freeze(Convolution {
                window: &self.window,
                groups: self.groups,
                channels: self.channels,
                input: self.input,
                output: self.output,
                weight: &weight,
                bias: self.bias.as_deref(),
            })
        })
    }
}

/// A convolution with its fused neighbours.
fn convolve(
    conv: &Arc<ConvSpec>,
    gpu: &Gpu,
    x: &[Tensor],
    relu: bool,
    precision: Precision,
    keep: Option<&mut Saved>,
) -> Result<Tensor> {
    let after = After { more: x.get(1), relu, keep: relu && keep.is_some() };
    let (y, mask) = conv.frozen(gpu)?.forward(gpu, first(x)?, after, precision)?;
    if let (Some(keep), Some(mask)) = (keep, mask) {
        keep.words(mask);
    }
    Ok(y)
}

impl OnGpu for Conv {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], _: Option<&mut Saved>) -> Result<Tensor> {
        convolve(&self.0, gpu, x, false, self.1, None)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        _: &Saved,
        dy: &Tensor,
        _: &[bool],
        context: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.0.frozen(gpu)?.input_grad(gpu, dy, context.back, self.1)?)])
    }
}

impl OnGpu for JoinedConv {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        let x = if self.residual { x } else { &x[..1] };
        convolve(&self.conv, gpu, x, self.relu, self.precision, keep)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        want: &[bool],
        context: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = if self.relu && !context.masked {
            let pass = PointwisePass { mask: Some(kept.get_words(0)?), ..PointwisePass::default() };
            gpu.pass(dy, pass, false)?.0
        } else {
            dy.clone()
        };
        let dx = if want[0] {
            Some(self.conv.frozen(gpu)?.input_grad(gpu, &dy, context.back, self.precision)?)
        } else {
            None
        };
        let mut grads = vec![dx];
        if self.residual {
            grads.push(want.get(1).copied().unwrap_or(false).then_some(dy));
        }
        Ok(grads)
    }
}

impl OnGpu for Affine {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], _: Option<&mut Saved>) -> Result<Tensor> {
        let [scale, shift] = self.factors(gpu)?;
        let pass = PointwisePass { scale: Some(scale), shift: Some(shift), ..PointwisePass::default() };
        Ok(gpu.pass(first(x)?, pass, false)?.0)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        _: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let pass = PointwisePass { scale: Some(&self.factors(gpu)?[0]), ..PointwisePass::default() };
        Ok(vec![Some(gpu.pass(dy, pass, false)?.0)])
    }
}

impl OnGpu for AffineRelu {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        let [scale, shift] = self.0.factors(gpu)?;
        let pass =
            PointwisePass { scale: Some(scale), shift: Some(shift), relu: true, ..PointwisePass::default() };
        masking(gpu, first(x)?, pass, keep)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let scale = Some(&self.0.factors(gpu)?[0]);
        let pass = PointwisePass { mask: Some(kept.get_words(0)?), scale, ..PointwisePass::default() };
        Ok(vec![Some(gpu.pass(dy, pass, false)?.0)])
    }
}

/// An element-wise pass whose mask is saved if `keep` is given.
fn masking(gpu: &Gpu, x: &Tensor, pass: PointwisePass<'_>, keep: Option<&mut Saved>) -> Result<Tensor> {
    let (y, mask) = gpu.pass(x, pass, keep.is_some())?;
    if let (Some(keep), Some(mask)) = (keep, mask) {
        keep.words(mask);
    }
    Ok(y)
}

impl OnGpu for Relu {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        masking(gpu, first(x)?, PointwisePass { relu: true, ..PointwisePass::default() }, keep)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let pass = PointwisePass { mask: Some(kept.get_words(0)?), ..PointwisePass::default() };
        Ok(vec![Some(gpu.pass(dy, pass, false)?.0)])
    }
}

impl<F: Function> OnGpu for Pointwise<F> {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        let x = first(x)?;
        let y = gpu.apply(x, self.0.code().ok_or_else(no_kernel)?)?;
        match (keep, F::FROM) {
            (Some(keep), SlopeOf::Input) => keep.array(&Array::from_tensor(x)?),
            (Some(keep), SlopeOf::Output) => keep.array(&Array::from_tensor(&y)?),
            _ => {}
        }
        Ok(y)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let code = self.0.code().ok_or_else(no_kernel)?;
        Ok(vec![Some(gpu.apply_back(dy, kept.get_array(0)?.tensor(), code)?)])
    }

    fn recompute(&self, gpu: &Gpu, kept: &Saved) -> Result<Tensor> {
        let kept = kept.get_array(0)?.tensor();
        match F::FROM {
            SlopeOf::Output => Ok(kept.clone()),
            _ => gpu.apply(kept, self.0.code().ok_or_else(no_kernel)?),
        }
    }
}

fn no_kernel() -> Error {
    Error::internal("a function without a kernel on the GPU")
}

impl OnGpu for Add {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], _: Option<&mut Saved>) -> Result<Tensor> {
        let pass = PointwisePass { more: x.get(1), ..PointwisePass::default() };
        Ok(gpu.pass(first(x)?, pass, false)?.0)
    }

    fn vjp(
        &self,
        _: &Gpu,
        _: &Saved,
        dy: &Tensor,
        want: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(want.iter().map(|w| w.then(|| dy.clone())).collect())
    }
}

impl OnGpu for Gate {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        let [Some(big), Some(small)] = [self.large(), self.small].map(|i| x.get(i)) else {
            return Err(Error::internal("a product of one value"));
        };
        if let Some(keep) = keep {
            if self.keeps {
                keep.array(&Array::from_tensor(big)?);
            }
            keep.array(&Array::from_tensor(small)?);
        }
        gpu.gate(Some(big), small, 1.0, big.dims())
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        want: &[bool],
        context: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let big = match context.value {
            Some(value) => value,
            None if self.keeps => kept.get_array(0)?.tensor(),
            None => return Err(Error::internal("a product without its operand")),
        };
        let small = kept.get_array(usize::from(self.keeps))?.tensor();
        let mut grads = vec![None, None];
        if want[self.small] {
            grads[self.small] = Some(gpu.sum_pixels(dy, Some(big), 1.0, small.dims())?);
        }
        if want[self.large()] {
            grads[self.large()] = Some(gpu.gate(Some(dy), small, 1.0, dy.dims())?);
        }
        Ok(grads)
    }
}

impl OnGpu for Max {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], keep: Option<&mut Saved>) -> Result<Tensor> {
        let (y, index) = gpu.max_pool(first(x)?, self.geometry(), &self.to, keep.is_some())?;
        if let (Some(keep), Some(index)) = (keep, index) {
            keep.words(index);
        }
        Ok(y)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        kept: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let [n, c, ..] = self.to;
        let from = [n, c, self.input[0], self.input[1]];
        Ok(vec![Some(gpu.max_pool_back(dy, kept.get_words(0)?, self.geometry(), &from)?)])
    }
}

impl Max {
    fn geometry(&self) -> WindowGeometry {
        WindowGeometry::new(&self.window, self.input, [self.to[2], self.to[3]])
    }
}

impl Average {
    fn run(&self, gpu: &Gpu, x: &Tensor, to: &[usize], back: bool) -> Result<Tensor> {
        let geometry =
            WindowGeometry::new(&self.window, [self.from[2], self.from[3]], [self.to[2], self.to[3]]);
        let counts = once(&self.counts, || gpu.constant(&self.pool.divisors()))?;
        gpu.mean_pool(x, counts, geometry, to, back)
    }
}

impl OnGpu for Average {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], _: Option<&mut Saved>) -> Result<Tensor> {
        self.run(gpu, first(x)?, &self.to, false)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        _: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.run(gpu, dy, &self.from, true)?)])
    }
}

impl OnGpu for OverPixels {
    fn forward(&self, gpu: &Gpu, x: &[Tensor], _: Option<&mut Saved>) -> Result<Tensor> {
        gpu.sum_pixels(first(x)?, None, self.share(), &self.to)
    }

    fn vjp(
        &self,
        gpu: &Gpu,
        _: &Saved,
        dy: &Tensor,
        _: &[bool],
        _: GpuVjpContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(gpu.gate(None, dy, self.share(), &self.from)?)])
    }
}

impl OverPixels {
    /// Weight of each pixel.
    fn share(&self) -> f32 {
        self.factor / (self.from[2] * self.from[3]).max(1) as f32
    }
}
