//! Arithmetic of small vectors and matrices, row-major: what a layer is made of and trained with. Products go to cuBLAS through
//! candle; for the rest candle has kernels too, but in modules of thousands, which the driver compiles on each new machine
//! (`nvcc`'s assembler takes 12 s for that of sums and products of two values alone): for these few there are our own.

use candle_core::{DType, Tensor};

use super::{Arg, Gpu, launch::THREADS};
use crate::{
    Error, Result,
    kernels::gpu::{AdamStep, SgdStep, Statistics},
};

fn number(v: f64) -> Arg {
    Arg::Float(v as f32)
}

fn count(n: usize) -> Arg {
    Arg::Word(n as u32)
}

impl Gpu {
    /// Where a value lies that is `n` floats one after the other.
    fn line(&self, t: &Tensor, n: usize) -> Result<Arg> {
        if t.elem_count() != n || !t.is_contiguous() || t.dtype() != DType::F32 {
            return Err(Error::internal("a vector or matrix of another shape"));
        }
        self.pointer(t)
    }

    fn line_or_null(&self, t: Option<&Tensor>, n: usize) -> Result<Arg> {
        t.map_or(Ok(Arg::Pointer(0)), |t| self.line(t, n))
    }

    /// A value of this shape that a kernel fills.
    fn made(&self, shape: &[usize], fill: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
        let out = self.empty::<f32>(shape)?;
        fill(&out)?;
        Ok(out)
    }

    /// a x + b y, y being absent where it is None.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn blend(&self, a: f64, x: &Tensor, b: f64, y: Option<&Tensor>) -> Result<Tensor> {
        self.made(x.dims(), |out| self.blend_into(out, [a, b], x, y))
    }

    /// x = a x + b y, in x's own memory.
    ///
    /// # Errors
    /// As [`Gpu::blend`].
    pub fn blend_in_place(&self, a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<()> {
        self.blend_into(x, [a, b], x, Some(y))
    }

    fn blend_into(&self, out: &Tensor, [a, b]: [f64; 2], x: &Tensor, y: Option<&Tensor>) -> Result<()> {
        let n = out.elem_count();
        let args = [self.line(out, n)?, self.line(x, n)?, self.line_or_null(y, n)?, count(n)];
        self.over("blend", n, &[&args[..], &[number(a), number(b)]].concat())
    }

    /// Along dimension 0, values in the layout of [`crate::ops::array`].
    ///
    /// # Errors
    /// Shapes that differ; the driver's own.
    pub fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor> {
        let lies = |t: &Tensor| -> Result<Tensor> {
            Ok(if t.rank() == 4 { t.permute((0, 2, 3, 1))? } else { t.clone() })
        };
        let first = parts.first().ok_or_else(|| Error::internal("nothing to be joined"))?;
        let mut shape = first.dims().to_vec();
        shape[0] = parts.iter().map(|p| p.dims()[0]).sum();
        let (all, mut at) = (self.value(&shape)?, 0);
        for part in parts {
            self.set_rows(&lies(&all)?, at, &lies(part)?)?;
            at += part.dims()[0];
        }
        Ok(all)
    }

    /// Writes rows of dimension 0 of a row-major value, from `at` on.
    ///
    /// # Errors
    /// Another shape, rows that are not there; the driver's own.
    pub fn set_rows(&self, all: &Tensor, at: usize, rows: &Tensor) -> Result<()> {
        let count = rows.dim(0)?;
        if all.dims()[1..] != rows.dims()[1..] || at + count > all.dim(0)? {
            return Err(Error::internal("rows of another shape, or too many"));
        }
        self.blend_into(&all.narrow(0, at, count)?, [1.0, 0.0], rows, None)
    }

    /// The rows of a matrix, each times its own number of `by`.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn scale_rows(&self, x: &Tensor, by: &Tensor) -> Result<Tensor> {
        self.scale_lines(x, by, false)
    }

    /// The columns of a matrix, each times its own number of `by`.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn scale_columns(&self, x: &Tensor, by: &Tensor) -> Result<Tensor> {
        self.scale_lines(x, by, true)
    }

    fn scale_lines(&self, x: &Tensor, by: &Tensor, across: bool) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let (n, lines) = (rows * columns, if across { columns } else { rows });
        self.made(x.dims(), |out| {
            let args =
                [self.line(out, n)?, self.line(x, n)?, self.line(by, lines)?, count(n), count(columns)];
            self.over("scale_lines", n, &[&args[..], &[Arg::Int(i32::from(across))]].concat())
        })
    }

    /// x - a b^T.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn less_outer(&self, x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let n = rows * columns;
        self.made(x.dims(), |out| {
            let args = [self.line(out, n)?, self.line(x, n)?, self.line(a, rows)?, self.line(b, columns)?];
            self.over("less_outer", n, &[&args[..], &[count(n), count(columns)]].concat())
        })
    }

    /// By row, the sum of the products of two matrices' elements.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (rows, columns) = a.dims2()?;
        let n = rows * columns;
        self.made(&[rows], |out| {
            let args = [self.line(out, rows)?, self.line(a, n)?, self.line(b, n)?, count(columns)];
            self.launch("row_dots", [rows, 1], [1024, 1], &args)
        })
    }

    /// A BatchNorm as factor and summand by channel; scale is 1 and bias 0 where it is None.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn norm_line(
        &self,
        scale: Option<&Tensor>,
        bias: Option<&Tensor>,
        by: Statistics<'_>,
    ) -> Result<[Tensor; 2]> {
        let n = by.mean.elem_count();
        let (factor, summand) = (self.empty::<f32>(&[n])?, self.empty::<f32>(&[n])?);
        let own = [self.line(&factor, n)?, self.line(&summand, n)?];
        let given = [self.line_or_null(scale, n)?, self.line_or_null(bias, n)?];
        let statistics = [self.line(by.mean, n)?, self.line(by.var, n)?, number(by.eps), count(n)];
        self.over("norm_line", n, &[&own[..], &given, &statistics].concat())?;
        Ok([factor, summand])
    }

    /// The gradient by its scale: `dots`, by channel, of what is multiplied by the factor, and `by_summand` the gradients by the
    /// summands.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn norm_line_back(&self, dots: &Tensor, by_summand: &Tensor, by: Statistics<'_>) -> Result<Tensor> {
        let n = by.mean.elem_count();
        self.made(&[n], |out| {
            let args = [self.line(out, n)?, self.line(dots, n)?, self.line(by_summand, n)?];
            let statistics = [self.line(by.mean, n)?, self.line(by.var, n)?, number(by.eps), count(n)];
            self.over("norm_line_back", n, &[&args[..], &statistics].concat())
        })
    }

    /// A step of SGD on `w`, in its own memory; the velocity, None before the first step, comes back.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn sgd_step(
        &self,
        w: &Tensor,
        velocity: Option<Tensor>,
        grad: &Tensor,
        step: SgdStep,
    ) -> Result<Tensor> {
        let (n, first) = (w.elem_count(), velocity.is_none());
        let velocity = velocity.map_or_else(|| self.empty::<f32>(w.dims()), Ok)?;
        let args = [self.line(w, n)?, self.line(&velocity, n)?, self.line(grad, n)?, count(n)];
        let more = [number(step.lr), number(step.momentum), number(step.weight_decay)];
        self.over("sgd_step", n, &[&args[..], &more, &[Arg::Int(i32::from(first))]].concat())?;
        Ok(velocity)
    }

    /// A step of Adam on `w`, in its own memory; the moments, None before the first step, come back.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn adam_step(
        &self,
        w: &Tensor,
        moments: Option<[Tensor; 2]>,
        grad: &Tensor,
        step: AdamStep,
    ) -> Result<[Tensor; 2]> {
        let (n, first) = (w.elem_count(), moments.is_none());
        let [m, v] = match moments {
            Some(moments) => moments,
            None => [self.empty::<f32>(w.dims())?, self.empty::<f32>(w.dims())?],
        };
        let args = [self.line(w, n)?, self.line(&m, n)?, self.line(&v, n)?, self.line(grad, n)?, count(n)];
        let [beta1, beta2] = step.betas.map(number);
        let more = [beta1, beta2, number(step.rate), number(step.spread), number(step.eps)];
        self.over("adam_step", n, &[&args[..], &more, &[Arg::Int(i32::from(first))]].concat())?;
        Ok([m, v])
    }

    /// Pixels (N, C, H, W) to what a network reads: (x - mean) / std by channel.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn normalise(&self, pixels: &Tensor, mean: &Tensor, std: &Tensor) -> Result<Tensor> {
        let (_, c, _, _) = pixels.dims4()?;
        let (out, n) = (self.value(pixels.dims())?, pixels.elem_count());
        let args = [self.pointer(&out)?, self.pointer(pixels)?, self.line(mean, c)?, self.line(std, c)?];
        self.over("normalise", n, &[&args[..], &[count(n), count(c)]].concat())?;
        Ok(out)
    }

    /// Adds to sums in f64, or begins them.
    ///
    /// # Errors
    /// Another shape; the driver's own.
    pub fn accumulate(&self, sums: Option<Tensor>, x: &Tensor) -> Result<Tensor> {
        let n = x.elem_count();
        let add = Arg::Int(i32::from(sums.is_some()));
        let sums = sums.map_or_else(|| self.empty::<f64>(x.dims()), Ok)?;
        if sums.elem_count() != n {
            return Err(Error::internal("a sum of another shape"));
        }
        self.over("accumulate", n, &[self.pointer(&sums)?, self.line(x, n)?, count(n), add])?;
        Ok(sums)
    }

    /// The rows of dimension 0, each divided by its length; what it is none of stays 0.
    ///
    /// # Errors
    /// The driver's own.
    pub fn unit_rows(&self, x: &Tensor) -> Result<Tensor> {
        let squares = self.latent_norm(None, x, None)?;
        let (out, n) = (self.value(x.dims())?, x.dim(0)?);
        let numel = x.elem_count() / n.max(1);
        let args = [self.pointer(&out)?, self.pointer(x)?, self.pointer(&squares)?, count(numel)];
        self.launch("unit_rows", [numel.div_ceil(THREADS), n], [THREADS as u32, 1], &args)?;
        Ok(out)
    }
}
