//! Computations that differ between devices, implemented for the processor and for a GPU behind one trait. Callers
//! ask [`on`] for the backend of their values' device.
//!
//! Values are candle tensors on that device; images (N, C, H, W) are channels-last in memory.

use std::{ops::Deref, sync::Arc};

use candle_core::{Device, Tensor, Var};

use super::{
    gpu::{AdamStep, Gpu, PointwisePass, SgdStep},
    pixels::Pixels,
};
use crate::{Error, Result};

/// Rows of a matrix that are copied or multiplied at a time, so that the working set stays in cache.
const ROWS: usize = 4096;

/// Adam's moments of one tensor: running means of its gradient and of the squared gradient, in its shape.
pub type Moments = [Tensor; 2];

/// What training and scanning compute besides the network's operators.
pub trait Backend {
    /// The sum over the rows of an (N, C) matrix: (C).
    ///
    /// # Errors
    /// Another rank; device errors.
    fn sum_rows(&self, rows: &Tensor) -> Result<Tensor>;

    /// Column sums of an (N, C) matrix, or with `about`, C numbers, sums of squared deviations from these. In f64 on
    /// the
    /// processor; in f32 in a fixed order on a GPU.
    ///
    /// # Errors
    /// Another rank; device errors.
    fn column_sums(&self, rows: &Tensor, about: Option<&[f64]>) -> Result<Vec<f64>>;

    /// The scatter matrix (C, C) of the rows of an (N, C) matrix about `mean`, C numbers. Products in f32, sums in
    /// f64.
    ///
    /// # Errors
    /// Another rank; device errors.
    fn scatter(&self, rows: &Tensor, mean: &[f64]) -> Result<Vec<f64>>;

    /// The sum of two tensors of the same shape.
    ///
    /// # Errors
    /// Different shapes; device errors.
    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// Concatenates along dimension 0.
    ///
    /// # Errors
    /// Other dimensions differ; device errors.
    fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor>;

    /// Selects rows of dimension 0.
    ///
    /// # Errors
    /// A row out of range; device errors.
    fn gather(&self, all: &Tensor, rows: &[usize]) -> Result<Tensor>;

    /// Flattens (N, C, H, W) to rows (N, H W C) and scales each to unit length; all-zero rows stay zero.
    ///
    /// # Errors
    /// Another rank; device errors.
    fn unit_rows(&self, x: &Tensor) -> Result<Tensor>;

    /// Normalises pixels (N, C, H, W): (x - mean) / std by channel.
    ///
    /// # Errors
    /// Another rank; device errors.
    fn normalise(&self, pixels: &Tensor, mean: &[f32], std: &[f32]) -> Result<Tensor>;

    /// One SGD step on `var`; returns the new velocity. `velocity` is None before the first step.
    ///
    /// # Errors
    /// Different shapes; device errors.
    fn sgd_step(&self, var: &Var, velocity: Option<Tensor>, grad: &Tensor, step: SgdStep) -> Result<Tensor>;

    /// One Adam step on `var`; returns the new moments. `moments` is None before the first step.
    ///
    /// # Errors
    /// Different shapes; device errors.
    fn adam_step(
        &self,
        var: &Var,
        moments: Option<Moments>,
        grad: &Tensor,
        step: AdamStep,
    ) -> Result<Moments>;
}

/// The backend of one device.
pub enum On {
    /// The processor.
    Processor,
    /// A GPU.
    Gpu(Arc<Gpu>),
}

impl Deref for On {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Processor => &Processor,
            Self::Gpu(gpu) => gpu.as_ref(),
        }
    }
}

/// The backend of `device`.
///
/// # Errors
/// A GPU that was not opened by this crate.
pub fn on(device: &Device) -> Result<On> {
    Ok(Gpu::of(device)?.map_or(On::Processor, On::Gpu))
}

/// `t` in the layout of the kernels, channels-last (rank 4) or row-major; copied only if its layout differs.
///
/// # Errors
/// candle's errors.
pub fn canonical(t: &Tensor) -> Result<Tensor> {
    Ok(if t.rank() == 4 {
        t.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))?
    } else {
        t.contiguous()?
    })
}

/// Flattens (N, C, H, W) to rows (N, H W C), the order of memory.
fn image_rows(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?.reshape((n, c * h * w))?)
}

/// candle, and the kernels of [`crate::kernels`].
struct Processor;

impl Backend for Processor {
    fn sum_rows(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.sum(0)?)
    }

    fn column_sums(&self, rows: &Tensor, about: Option<&[f64]>) -> Result<Vec<f64>> {
        let (count, c) = rows.dims2()?;
        let mut sums = vec![0f64; c];
        for start in (0..count).step_by(ROWS) {
            let values = rows.narrow(0, start, ROWS.min(count - start))?.flatten_all()?.to_vec1::<f32>()?;
            for row in values.chunks_exact(c.max(1)) {
                match about {
                    None => sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v)),
                    Some(about) => {
                        let each = sums.iter_mut().zip(row).zip(about);
                        each.for_each(|((sum, v), about)| *sum += (f64::from(*v) - about).powi(2));
                    }
                }
            }
        }
        Ok(sums)
    }

    fn scatter(&self, rows: &Tensor, mean: &[f64]) -> Result<Vec<f64>> {
        let (count, c) = rows.dims2()?;
        let less: Vec<f32> = mean.iter().map(|m| -*m as f32).collect();
        let less = Tensor::from_vec(less, c, rows.device())?;
        let mut sums = vec![0f64; c * c];
        for start in (0..count).step_by(ROWS) {
            let x = rows.narrow(0, start, ROWS.min(count - start))?.broadcast_add(&less)?;
            let products = x.t()?.matmul(&x)?.flatten_all()?.to_vec1::<f32>()?;
            sums.iter_mut().zip(products).for_each(|(sum, p)| *sum += f64::from(p));
        }
        Ok(sums)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok((a + b)?)
    }

    fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor> {
        if parts.first().is_none_or(|first| first.rank() != 4) {
            return Ok(Tensor::cat(parts, 0)?);
        }
        let last = |t: &Tensor| t.permute((0, 2, 3, 1))?.contiguous();
        let parts = parts.iter().map(last).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?.permute((0, 3, 1, 2))?)
    }

    fn gather(&self, all: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let index: Vec<u32> = rows.iter().map(|&i| i as u32).collect();
        let index = Tensor::from_vec(index, rows.len(), all.device())?;
        Ok(if all.rank() == 4 {
            all.permute((0, 2, 3, 1))?.contiguous()?.index_select(&index, 0)?.permute((0, 3, 1, 2))?
        } else {
            all.contiguous()?.index_select(&index, 0)?
        })
    }

    fn unit_rows(&self, x: &Tensor) -> Result<Tensor> {
        let rows = image_rows(x)?;
        let length = (rows.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-30)?;
        Ok(rows.broadcast_div(&length)?)
    }

    fn normalise(&self, pixels: &Tensor, mean: &[f32], std: &[f32]) -> Result<Tensor> {
        let (n, c, h, w) = pixels.dims4()?;
        if pixels.elem_count() == 0 {
            return Ok(pixels.clone());
        }
        let rows = canonical(pixels)?;
        let mut normalised = vec![0f32; rows.elem_count()];
        let (guard, layout) = rows.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*guard else {
            return Err(Error::internal("the pixels are not on the processor"));
        };
        let start = layout.start_offset();
        let values = &storage.as_slice::<f32>()?[start..start + rows.elem_count()];
        Pixels::new(h * w, mean, std).normalise(values, &mut normalised);
        Ok(Tensor::from_vec(normalised, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?)
    }

    fn sgd_step(&self, var: &Var, velocity: Option<Tensor>, grad: &Tensor, step: SgdStep) -> Result<Tensor> {
        let w = var.as_detached_tensor();
        let g = (grad + (&w * step.weight_decay)?)?;
        let v = match velocity {
            Some(v) => ((v * step.momentum)? + g)?,
            None => g,
        };
        var.set(&(&w - (&v * step.lr)?)?)?;
        Ok(v)
    }

    fn adam_step(
        &self,
        var: &Var,
        moments: Option<Moments>,
        grad: &Tensor,
        step: AdamStep,
    ) -> Result<Moments> {
        let [first, second] = step.betas;
        let [m, v] = match moments {
            Some([m, v]) => [
                ((m * first)? + (grad * (1.0 - first))?)?,
                ((v * second)? + (grad.sqr()? * (1.0 - second))?)?,
            ],
            None => [(grad * (1.0 - first))?, (grad.sqr()? * (1.0 - second))?],
        };
        let by = ((&v / step.spread)?.sqrt()? + step.eps)?;
        let w = var.as_detached_tensor();
        var.set(&(w - ((&m * step.rate)? / by)?)?)?;
        Ok([m, v])
    }
}

/// The kernels of `kernels.cu`, and cuBLAS.
impl Backend for Gpu {
    fn sum_rows(&self, rows: &Tensor) -> Result<Tensor> {
        self.sum_columns(rows, None)
    }

    fn column_sums(&self, rows: &Tensor, about: Option<&[f64]>) -> Result<Vec<f64>> {
        let sums = match about {
            None => self.sum_columns(rows, None)?,
            Some(about) => {
                let about: Vec<f32> = about.iter().map(|v| *v as f32).collect();
                let about = Tensor::from_vec(about, rows.dim(1)?, rows.device())?;
                let apart = shifted(self, rows, &self.blend(-1.0, &about, 0.0, None)?)?;
                self.sum_columns(&apart, Some(&apart))?
            }
        };
        Ok(sums.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    }

    /// One transfer to the processor for all parts: each would wait for the GPU.
    fn scatter(&self, rows: &Tensor, mean: &[f64]) -> Result<Vec<f64>> {
        let (count, c) = rows.dims2()?;
        let less: Vec<f32> = mean.iter().map(|m| -*m as f32).collect();
        let less = Tensor::from_vec(less, c, rows.device())?;
        let mut sums = None;
        for start in (0..count).step_by(ROWS) {
            let x = shifted(self, &rows.narrow(0, start, ROWS.min(count - start))?, &less)?;
            sums = Some(self.accumulate(sums, &x.t()?.matmul(&x)?)?);
        }
        sums.map_or_else(|| Ok(vec![0.0; c * c]), |sums| Ok(sums.flatten_all()?.to_vec1::<f64>()?))
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.blend(1.0, a, 1.0, Some(b))
    }

    fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor> {
        let parts = parts.iter().map(canonical).collect::<Result<Vec<_>>>()?;
        Gpu::concatenate(self, &parts)
    }

    fn gather(&self, all: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let rows: Vec<(usize, usize)> = rows.iter().map(|&i| (0, i)).collect();
        Gpu::gather(self, &[&canonical(all)?], &rows)
    }

    fn unit_rows(&self, x: &Tensor) -> Result<Tensor> {
        image_rows(&Gpu::unit_rows(self, x)?)
    }

    fn normalise(&self, pixels: &Tensor, mean: &[f32], std: &[f32]) -> Result<Tensor> {
        let [mean, std] = [self.constant(mean)?, self.constant(std)?];
        Gpu::normalise(self, &canonical(pixels)?, &mean, &std)
    }

    fn sgd_step(&self, var: &Var, velocity: Option<Tensor>, grad: &Tensor, step: SgdStep) -> Result<Tensor> {
        Gpu::sgd_step(self, var.as_tensor(), velocity, grad, step)
    }

    fn adam_step(
        &self,
        var: &Var,
        moments: Option<Moments>,
        grad: &Tensor,
        step: AdamStep,
    ) -> Result<Moments> {
        Gpu::adam_step(self, var.as_tensor(), moments, grad, step)
    }
}

/// Adds a number per column to an (N, C) matrix.
fn shifted(gpu: &Gpu, rows: &Tensor, by: &Tensor) -> Result<Tensor> {
    Ok(gpu.pass(rows, PointwisePass { shift: Some(by), ..PointwisePass::default() }, false)?.0)
}
