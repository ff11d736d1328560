//! Arithmetic on small row-major vectors and matrices, for computing and training the layer. Products go to cuBLAS
//! through candle. The rest has kernels of its own: candle's are in modules of thousands, which the driver compiles
//! on each new machine (12 s in `nvcc`'s assembler for those of sums and products alone).

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
    /// Address of a contiguous value of `n` floats.
    fn line(&self, t: &Tensor, n: usize) -> Result<Arg> {
        if t.elem_count() != n || !t.is_contiguous() || t.dtype() != DType::F32 {
            return Err(Error::internal("a vector or matrix of another shape"));
        }
        self.pointer(t)
    }

    fn line_or_null(&self, t: Option<&Tensor>, n: usize) -> Result<Arg> {
        t.map_or(Ok(Arg::Pointer(0)), |t| self.line(t, n))
    }

    /// A new value of this shape, filled by a kernel.
    fn made(&self, shape: &[usize], fill: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
        let out = self.empty::<f32>(shape)?;
        fill(&out)?;
        Ok(out)
    }

    /// a x + b y, or a x if y is None.
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn blend(&self, a: f64, x: &Tensor, b: f64, y: Option<&Tensor>) -> Result<Tensor> {
        self.made(x.dims(), |out| self.blend_into(out, [a, b], x, y))
    }

    /// x <- a x + b y, in place.
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

    /// Concatenates along dimension 0, in the layout of [`crate::ops::array`].
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn concatenate(&self, parts: &[Tensor]) -> Result<Tensor> {
        let lies = |t: &Tensor| -> Result<Tensor> {
            Ok(if t.rank() == 4 { t.permute((0, 2, 3, 1))? } else { t.clone() })
        };
        let first = parts.first().ok_or_else(|| Error::internal("nothing to concatenate"))?;
        let mut shape = first.dims().to_vec();
        shape[0] = parts.iter().map(|p| p.dims()[0]).sum();
        let (all, mut at) = (self.value(&shape)?, 0);
        for part in parts {
            self.set_rows(&lies(&all)?, at, &lies(part)?)?;
            at += part.dims()[0];
        }
        Ok(all)
    }

    /// Overwrites rows of dimension 0 of a row-major value, from `at` on.
    ///
    /// # Errors
    /// Different shapes, rows out of range; driver errors.
    pub fn set_rows(&self, all: &Tensor, at: usize, rows: &Tensor) -> Result<()> {
        let count = rows.dim(0)?;
        if all.dims()[1..] != rows.dims()[1..] || at + count > all.dim(0)? {
            return Err(Error::internal("rows of another shape, or too many"));
        }
        self.blend_into(&all.narrow(0, at, count)?, [1.0, 0.0], rows, None)
    }

    /// Multiplies each row of a matrix by its number in `by`.
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn scale_rows(&self, x: &Tensor, by: &Tensor) -> Result<Tensor> {
        self.scale_lines(x, by, false)
    }

    /// Multiplies each column of a matrix by its number in `by`.
    ///
    /// # Errors
    /// Different shapes; driver errors.
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
    /// Different shapes; driver errors.
    pub fn less_outer(&self, x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let n = rows * columns;
        self.made(x.dims(), |out| {
            let args = [self.line(out, n)?, self.line(x, n)?, self.line(a, rows)?, self.line(b, columns)?];
            self.over("less_outer", n, &[&args[..], &[count(n), count(columns)]].concat())
        })
    }

    /// Dot products of corresponding rows of two matrices.
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (rows, columns) = a.dims2()?;
        let n = rows * columns;
        self.made(&[rows], |out| {
            let args = [self.line(out, rows)?, self.line(a, n)?, self.line(b, n)?, count(columns)];
            self.launch("row_dots", [rows, 1], [1024, 1], &args)
        })
    }

    /// A BatchNorm as factor and summand per channel; a None scale is 1, a None bias 0.
    ///
    /// # Errors
    /// Different shapes; driver errors.
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

    /// The gradient with respect to the scale. By channel: `dots`, the gradient's dot product with the factor's
    /// input;
    /// `by_summand`, the gradient with respect to the summand.
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn norm_line_back(&self, dots: &Tensor, by_summand: &Tensor, by: Statistics<'_>) -> Result<Tensor> {
        let n = by.mean.elem_count();
        self.made(&[n], |out| {
            let args = [self.line(out, n)?, self.line(dots, n)?, self.line(by_summand, n)?];
            let statistics = [self.line(by.mean, n)?, self.line(by.var, n)?, number(by.eps), count(n)];
            self.over("norm_line_back", n, &[&args[..], &statistics].concat())
        })
    }

    /// One SGD step on `w`, in place; returns the velocity, which is None before the first step.
    ///
    /// # Errors
    /// Different shapes; driver errors.
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

    /// One Adam step on `w`, in place; returns the moments, which are None before the first step.
    ///
    /// # Errors
    /// Different shapes; driver errors.
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

    /// Normalises pixels (N, C, H, W): (x - mean) / std by channel.
    ///
    /// # Errors
    /// Different shapes; driver errors.
    pub fn normalise(&self, pixels: &Tensor, mean: &Tensor, std: &Tensor) -> Result<Tensor> {
        let (_, c, _, _) = pixels.dims4()?;
        let (out, n) = (self.value(pixels.dims())?, pixels.elem_count());
        let args = [self.pointer(&out)?, self.pointer(pixels)?, self.line(mean, c)?, self.line(std, c)?];
        self.over("normalise", n, &[&args[..], &[count(n), count(c)]].concat())?;
        Ok(out)
    }

    /// Adds x to f64 sums, or starts them.
    ///
    /// # Errors
    /// Different shapes; driver errors.
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

    /// Scales each row of dimension 0 to unit length; all-zero rows stay zero.
    ///
    /// # Errors
    /// Driver errors.
    pub fn unit_rows(&self, x: &Tensor) -> Result<Tensor> {
        let squares = self.latent_norm(None, x, None)?;
        let (out, n) = (self.value(x.dims())?, x.dim(0)?);
        let numel = x.elem_count() / n.max(1);
        let args = [self.pointer(&out)?, self.pointer(x)?, self.pointer(&squares)?, count(numel)];
        self.launch("unit_rows", [numel.div_ceil(THREADS), n], [THREADS as u32, 1], &args)?;
        Ok(out)
    }
}
