//! What is computed differently where it runs: each task once for the processor and once for a GPU, behind one trait. Callers
//! ask [`on`] for the backend of the device that their values are on, and do not know which one they have.
//!
//! Values are candle tensors on that device; images (N, C, H, W) lie channels-last.

use std::{ops::Deref, sync::Arc};

use candle_core::{Device, Tensor, Var};

use super::{
    gpu::{AdamStep, Gpu, Pass, SgdStep},
    pixels::Pixels,
};
use crate::{Error, Result};

/// Rows of a matrix at a time, where they are copied or multiplied: what is worked on stays in a cache.
const ROWS: usize = 4096;

/// Moments of Adam for one tensor: the means of its gradients and of their squares, of the tensor's shape.
pub type Moments = [Tensor; 2];

/// A device's way of computing what training and scanning need beside the network's operators.
pub trait Backend {
    /// The sum of the rows of (N, C): (C).
    ///
    /// # Errors
    /// Another rank; the device's own.
    fn sum_rows(&self, rows: &Tensor) -> Result<Tensor>;

    /// By column of (N, C), the sum over its rows, or with `about`, C numbers, that of the squared distances from these. In f64
    /// on the processor; on a GPU in f32, in a fixed order.
    ///
    /// # Errors
    /// Another rank; the device's own.
    fn column_sums(&self, rows: &Tensor, about: Option<&[f64]>) -> Result<Vec<f64>>;

    /// Sums over the rows of (N, C) of the products of their elements' distances from `mean`, C numbers: (C, C), symmetric.
    /// Products in f32, sums in f64.
    ///
    /// # Errors
    /// Another rank; the device's own.
    fn scatter(&self, rows: &Tensor, mean: &[f64]) -> Result<Vec<f64>>;

    /// The sum of two tensors of the same shape.
    ///
    /// # Errors
    /// Another shape; the device's own.
    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// Values of otherwise the same shape along dimension 0.
    ///
    /// # Errors
    /// Shapes that differ; the device's own.
    fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor>;

    /// These rows of dimension 0.
    ///
    /// # Errors
    /// A row that is not there; the device's own.
    fn gather(&self, all: &Tensor, rows: &[usize]) -> Result<Tensor>;

    /// (N, C, H, W) as rows (N, H W C), each divided by its length; rows of zeros stay.
    ///
    /// # Errors
    /// Another rank; the device's own.
    fn unit_rows(&self, x: &Tensor) -> Result<Tensor>;

    /// Pixels (N, C, H, W) to what a network reads: (x - mean) / std by channel.
    ///
    /// # Errors
    /// Another rank; the device's own.
    fn normalise(&self, pixels: &Tensor, mean: &[f32], std: &[f32]) -> Result<Tensor>;

    /// A step of SGD on `var`, `velocity` being None before the first; the new velocity.
    ///
    /// # Errors
    /// Another shape; the device's own.
    fn sgd_step(&self, var: &Var, velocity: Option<Tensor>, grad: &Tensor, step: SgdStep) -> Result<Tensor>;

    /// A step of Adam on `var`, `moments` being None before the first; the new moments.
    ///
    /// # Errors
    /// Another shape; the device's own.
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
    /// This GPU.
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

/// `t` as kernels take it: itself, where it lies channels-last (rank 4) or row-major already, else a copy.
///
/// # Errors
/// Candle's own.
pub fn canonical(t: &Tensor) -> Result<Tensor> {
    Ok(if t.rank() == 4 {
        t.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))?
    } else {
        t.contiguous()?
    })
}

/// (N, C, H, W) as rows (N, H W C), in the order in which the elements lie in memory.
fn image_rows(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?.reshape((n, c * h * w))?)
}

/// Candle and the kernels of [`crate::kernels`].
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
            return Err(Error::internal("pixels that are not on the processor"));
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

    /// One copy to the processor for all: each would be waited for.
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

/// A matrix, (N, C), with a number for each column added.
fn shifted(gpu: &Gpu, rows: &Tensor, by: &Tensor) -> Result<Tensor> {
    Ok(gpu.pass(rows, Pass { shift: Some(by), ..Pass::default() }, false)?.0)
}
