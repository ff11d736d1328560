//! One method per kernel of `kernels.cu`: checks shapes and queues the launch. Values are in the layout of
//! [`crate::ops::array`]: rank 4 is (N, C, H, W), channels-last in memory.

use candle_core::{DType, Tensor, cuda_backend::cudarc::driver::DeviceRepr};

use super::{Arg, Gpu};
use crate::{
    Error, Result,
    kernels::{
        gpu::{Code, PointwisePass, WindowGeometry},
        pixels::Descent,
    },
};

/// Threads per block for kernels that handle one element per thread.
pub(super) const THREADS: usize = 256;

// SAFETY: twelve ints, as in the kernel's struct.
unsafe impl DeviceRepr for WindowGeometry {}

impl Gpu {
    /// Shape of the mask of a value: [rows, words per row]; rows are dimension 0.
    fn mask_words(shape: &[usize]) -> [usize; 2] {
        let rows = shape.first().copied().unwrap_or(1);
        let row = shape.iter().skip(1).product::<usize>();
        [rows, row.div_ceil(32)]
    }

    /// Applies `pass` to x; with `keep`, also returns the mask of positive results, taken before the Relu.
    ///
    /// # Errors
    /// Driver errors.
    pub fn pass(&self, x: &Tensor, pass: PointwisePass<'_>, keep: bool) -> Result<(Tensor, Option<Tensor>)> {
        let y = self.value(x.dims())?;
        let mask = self.pass_into(&y, x, pass, keep)?;
        Ok((y, mask))
    }

    /// [`Gpu::pass`] in place; nothing else may hold `x`.
    pub(super) fn pass_in_place(
        &self,
        x: &Tensor,
        pass: PointwisePass<'_>,
        keep: bool,
    ) -> Result<Option<Tensor>> {
        self.pass_into(x, x, pass, keep)
    }

    fn pass_into(
        &self,
        y: &Tensor,
        x: &Tensor,
        pass: PointwisePass<'_>,
        keep: bool,
    ) -> Result<Option<Tensor>> {
        let shape = x.dims();
        let [mut rows, words] = Self::mask_words(shape);
        let elements = x.elem_count();
        if elements == 0 {
            return Ok(None);
        }
        let by_channel = pass.scale.or(pass.shift);
        let channels = by_channel.map_or(0, Tensor::elem_count);
        let fits = |t: Option<&Tensor>, n: usize| t.is_none_or(|t| t.elem_count() == n);
        let lies = matches!(shape.len(), 2 | 4) && shape[1] == channels || channels == 0;
        if !lies
            || !fits(pass.scale, channels)
            || !fits(pass.shift, channels)
            || !fits(pass.more, elements)
            || !fits(pass.mask, rows * words)
        {
            return Err(Error::internal("a pass over a value of another shape"));
        }
        if !keep && pass.mask.is_none() {
            rows = 1; // rows matter to masks alone, and a matrix may have more than a grid's limit
        }
        let row = elements / rows;
        let mask = if keep { Some(self.empty::<u32>(&[rows, words])?) } else { None };
        let [y, x] = [self.pointer(y)?, self.pointer(x)?];
        let more = self.address_or_null(pass.more)?;
        let [scale, shift] = [self.address_or_null(pass.scale)?, self.address_or_null(pass.shift)?];
        let masks = [self.address_or_null(pass.mask)?, self.address_or_null(mask.as_ref())?];
        // a view of another value may be unaligned
        let lies_in_fours = |arg: &Arg| matches!(arg, Arg::Pointer(at) if at.is_multiple_of(16));
        let mut args = vec![y, x, Arg::Pointer(more), Arg::Pointer(scale), Arg::Pointer(shift)];
        let in_fours = args.iter().all(lies_in_fours);
        args.extend(masks.map(Arg::Pointer));
        let relu = Arg::Int(i32::from(pass.relu));
        if row.is_multiple_of(32) && channels.is_multiple_of(4) && in_fours {
            let quads = elements / 4;
            args.extend([Arg::Word(quads as u32), Arg::Word(channels as u32), relu]);
            self.launch("pass4", [quads.div_ceil(THREADS), 1], [THREADS as u32, 1], &args)?;
        } else {
            args.extend([Arg::Word(row as u32), Arg::Word(words as u32), Arg::Word(channels as u32), relu]);
            self.launch("pass1", [row.div_ceil(THREADS), rows], [THREADS as u32, 1], &args)?;
        }
        Ok(mask)
    }

    /// Applies a function element-wise.
    ///
    /// # Errors
    /// Driver errors.
    pub fn apply(&self, x: &Tensor, f: Code) -> Result<Tensor> {
        let (y, n) = (self.value(x.dims())?, x.elem_count());
        let [a, b] = f.given.map(Arg::Float);
        let args = [self.pointer(&y)?, self.pointer(x)?, Arg::Word(n as u32), Arg::Int(f.code), a, b];
        self.over("apply", n, &args)?;
        Ok(y)
    }

    /// The gradient of [`Gpu::apply`], from the saved value.
    ///
    /// # Errors
    /// Driver errors.
    pub fn apply_back(&self, dy: &Tensor, kept: &Tensor, f: Code) -> Result<Tensor> {
        let (dx, n) = (self.value(dy.dims())?, dy.elem_count());
        if kept.elem_count() != n {
            return Err(Error::internal("a gradient of another shape"));
        }
        let ([a, b], [from, to]) = (f.given.map(Arg::Float), f.between.map(Arg::Float));
        let n_arg = Arg::Word(n as u32);
        let args = [self.pointer(&dx)?, self.pointer(dy)?, self.pointer(kept)?, n_arg];
        let args = [&args[..], &[Arg::Int(f.code), a, b, from, to]].concat();
        self.over("apply_back", n, &args)?;
        Ok(dx)
    }

    /// big * small * factor, with `small`, (N, C, 1, 1) or (N, C), broadcast over the pixels of `big` (all ones if
    /// None).
    /// The result has `shape`, (N, C, H, W).
    ///
    /// # Errors
    /// Driver errors.
    pub fn gate(&self, big: Option<&Tensor>, small: &Tensor, factor: f32, shape: &[usize]) -> Result<Tensor> {
        let &[n, c, h, w] = shape else { return Err(Error::internal("a gate over no image")) };
        if small.elem_count() != n * c || big.is_some_and(|b| b.dims() != shape) {
            return Err(Error::internal("a gate of another shape"));
        }
        let (y, image) = (self.value(shape)?, c * h * w);
        let big = Arg::Pointer(self.address_or_null(big)?);
        let words = [Arg::Word(image as u32), Arg::Word(c as u32), Arg::Float(factor)];
        let args = [&[self.pointer(&y)?, big, self.pointer(small)?][..], &words].concat();
        self.launch("gate", [image.div_ceil(THREADS), n], [THREADS as u32, 1], &args)?;
        Ok(y)
    }

    /// factor * sum of a * b over the pixels of each image and channel; b is 1 if None. From (N, C, H, W) to `to`,
    /// (N, C, 1, 1) or (N, C).
    ///
    /// # Errors
    /// Driver errors.
    pub fn sum_pixels(&self, a: &Tensor, b: Option<&Tensor>, factor: f32, to: &[usize]) -> Result<Tensor> {
        let (n, c, h, w) = a.dims4()?;
        if b.is_some_and(|b| b.dims() != a.dims()) || to.iter().product::<usize>() != n * c {
            return Err(Error::internal("a sum of another shape"));
        }
        let y = self.value(to)?;
        self.sum_rows(&y, a, b, [n, h * w, c], factor)?;
        Ok(y)
    }

    /// Column sums of (rows, C), each element times that of `by` (1 if None): C numbers.
    ///
    /// # Errors
    /// Driver errors.
    pub fn sum_columns(&self, rows: &Tensor, by: Option<&Tensor>) -> Result<Tensor> {
        let (count, c) = rows.dims2()?;
        if by.is_some_and(|b| b.dims() != rows.dims()) {
            return Err(Error::internal("a sum of another shape"));
        }
        let y = self.empty::<f32>(&[c])?;
        // in two stages, to have work for the whole device
        let parts = (1..=128).rev().find(|p| count.is_multiple_of(*p)).unwrap_or(1);
        if parts == 1 {
            self.sum_rows(&y, rows, by, [1, count, c], 1.0)?;
            return Ok(y);
        }
        let half = self.empty::<f32>(&[parts, c])?;
        self.sum_rows(&half, rows, by, [parts, count / parts, c], 1.0)?;
        self.sum_rows(&y, &half, None, [1, parts, c], 1.0)?;
        Ok(y)
    }

    fn sum_rows(
        &self,
        y: &Tensor,
        a: &Tensor,
        b: Option<&Tensor>,
        size: [usize; 3],
        factor: f32,
    ) -> Result<()> {
        let [groups, rows, c] = size;
        // these may span all images, so the kernel counts in 64 bits
        let [a, b] = [self.address(a)?, self.address_or_null(b)?].map(Arg::Pointer);
        let args = [self.pointer(y)?, a, b, Arg::Word(rows as u32), Arg::Word(c as u32)];
        let args = [&args[..], &[Arg::Float(factor)]].concat();
        self.launch("sum_rows", [c.div_ceil(32), groups], [32, 32], &args)
    }

    /// Maxima of windows, to `to` (N, C, OH, OW); with `keep`, also the index of each maximum's pixel.
    ///
    /// # Errors
    /// Driver errors.
    pub fn max_pool(
        &self,
        x: &Tensor,
        window: WindowGeometry,
        to: &[usize],
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let y = self.value(to)?;
        let (n, total) = (to[0], y.elem_count());
        let index = if keep { Some(self.empty::<u32>(&[n, total / n.max(1)])?) } else { None };
        let args = [self.pointer(&y)?, Arg::Pointer(self.address_or_null(index.as_ref())?), self.pointer(x)?];
        self.over("max_pool", total, &[&args[..], &pool_args(window, to[1], total)].concat())?;
        Ok((y, index))
    }

    /// The gradient of [`Gpu::max_pool`]; `from` is the input's shape.
    ///
    /// # Errors
    /// Driver errors.
    pub fn max_pool_back(
        &self,
        dy: &Tensor,
        index: &Tensor,
        window: WindowGeometry,
        from: &[usize],
    ) -> Result<Tensor> {
        let dx = self.value(from)?;
        let total = dx.elem_count();
        let args = [self.pointer(&dx)?, self.pointer(dy)?, self.pointer(index)?];
        self.over("max_pool_back", total, &[&args[..], &pool_args(window, from[1], total)].concat())?;
        Ok(dx)
    }

    /// Averages of windows, to `to`; `counts` is the divisor of each output pixel.
    ///
    /// # Errors
    /// Driver errors.
    pub fn mean_pool(
        &self,
        x: &Tensor,
        counts: &Tensor,
        window: WindowGeometry,
        to: &[usize],
        back: bool,
    ) -> Result<Tensor> {
        let y = self.value(to)?;
        let total = y.elem_count();
        let args = [self.pointer(&y)?, self.pointer(x)?, self.pointer(counts)?];
        let name = if back { "mean_pool_back" } else { "mean_pool" };
        self.over(name, total, &[&args[..], &pool_args(window, to[1], total)].concat())?;
        Ok(y)
    }

    /// A depthwise convolution, or with `back` its input gradient, to `to`; weights (kh, kw, C).
    ///
    /// # Errors
    /// Driver errors.
    pub fn depthwise(
        &self,
        x: &Tensor,
        weights: &Tensor,
        window: WindowGeometry,
        to: &[usize],
        back: bool,
    ) -> Result<Tensor> {
        let y = self.value(to)?;
        let total = y.elem_count();
        let args = [self.pointer(&y)?, self.pointer(x)?, self.pointer(weights)?];
        let name = if back { "depthwise_back" } else { "depthwise" };
        self.over(name, total, &[&args[..], &pool_args(window, to[1], total)].concat())?;
        Ok(y)
    }

    /// Gathers rows of dimension 0, (index in `parts`, row of that part), of floats or words; the other dimensions of
    /// the
    /// parts agree.
    ///
    /// # Errors
    /// Different shapes, a row out of range; driver errors.
    pub fn gather(&self, parts: &[&Tensor], rows: &[(usize, usize)]) -> Result<Tensor> {
        let first = parts.first().ok_or_else(|| Error::internal("no rows"))?;
        let mut shape = first.dims().to_vec();
        let wrong = || Error::internal("rows of different shapes, or a row out of range");
        if shape.is_empty()
            || parts.iter().any(|p| p.dims()[1..] != shape[1..] || p.dtype() != first.dtype())
            || rows.iter().any(|&(p, row)| parts.get(p).is_none_or(|p| row >= p.dims()[0]))
        {
            return Err(wrong());
        }
        let words = shape[1..].iter().product::<usize>();
        let base = parts.iter().map(|p| self.address(p)).collect::<Result<Vec<_>>>()?;
        let from: Vec<i64> =
            rows.iter().map(|&(p, row)| (base[p] + (row * words * 4) as u64) as i64).collect();
        shape[0] = rows.len();
        let y = match first.dtype() {
            DType::F32 => self.value(&shape)?,
            DType::U32 => self.empty::<u32>(&shape)?,
            _ => return Err(wrong()),
        };
        let to = self.address(&y)?;
        for (lot, from) in from.chunks(super::GRID_ROWS).enumerate() {
            use candle_core::cuda_backend::cudarc::driver::DevicePtr as _;
            let to = to + (lot * super::GRID_ROWS * words * 4) as u64;
            let rows = from.len();
            let from = self.stream.clone_htod(from).map_err(super::refused("rows"))?;
            let from = Arg::Pointer(from.device_ptr(&self.stream).0);
            let args = [Arg::Pointer(to), from, Arg::Word(words as u32)];
            self.launch("gather", [words.div_ceil(THREADS), rows], [THREADS as u32, 1], &args)?;
        }
        Ok(y)
    }

    /// Adds each image's sum of (grad sigma)^2 to `squares`, (N) in f64, or starts it; sigma is 1 if None.
    ///
    /// # Errors
    /// Driver errors.
    pub fn latent_norm(
        &self,
        squares: Option<Tensor>,
        grad: &Tensor,
        sigma: Option<&Tensor>,
    ) -> Result<Tensor> {
        let n = grad.dim(0)?;
        let add = Arg::Int(i32::from(squares.is_some()));
        let squares = squares.map_or_else(|| self.empty::<f64>(&[n]), Ok)?;
        let numel = grad.elem_count() / n.max(1);
        if sigma.is_some_and(|s| s.elem_count() != numel) {
            return Err(Error::internal("deviations of another shape"));
        }
        let sigma = Arg::Pointer(self.address_or_null(sigma)?);
        let args = [self.pointer(&squares)?, self.pointer(grad)?, sigma, Arg::Word(numel as u32), add];
        self.launch("latent_norm", [n, 1], [1024, 1], &args)?;
        Ok(squares)
    }

    /// The adversary's step on a value at the cut: updates `delta` and returns values + sigma delta. See
    /// [`crate::kernels::latent::descend`].
    ///
    /// # Errors
    /// Driver errors.
    pub fn latent_move(
        &self,
        delta: &Tensor,
        values: &Tensor,
        grad: Option<&Tensor>,
        sigma: &Tensor,
        squares: &Tensor,
        length: f32,
    ) -> Result<Tensor> {
        let (moved, numel) = (self.value(values.dims())?, sigma.elem_count());
        let n = values.dim(0)?;
        let grad = Arg::Pointer(self.address_or_null(grad)?);
        let args = [self.pointer(&moved)?, self.pointer(delta)?, self.pointer(values)?, grad];
        let more =
            [self.pointer(sigma)?, self.pointer(squares)?, Arg::Word(numel as u32), Arg::Float(length)];
        let args = [&args[..], &more].concat();
        self.launch("latent_move", [numel.div_ceil(THREADS), n], [THREADS as u32, 1], &args)?;
        Ok(moved)
    }

    /// A step of sign descent on pixels: updates `delta` and returns the new network input. See
    /// [`crate::kernels::pixels::Pixels::descend`]; mean and std by channel.
    ///
    /// # Errors
    /// Driver errors.
    pub fn pixel_step(
        &self,
        delta: &Tensor,
        pixels: &Tensor,
        grad: Option<&Tensor>,
        [mean, std]: [&Tensor; 2],
        to: Descent,
    ) -> Result<Tensor> {
        let (moved, n) = (self.value(pixels.dims())?, pixels.dim(0)?);
        let numel = pixels.elem_count() / n.max(1);
        let grad = Arg::Pointer(self.address_or_null(grad)?);
        let args = [self.pointer(&moved)?, self.pointer(delta)?, self.pointer(pixels)?, grad];
        let more = [self.pointer(mean)?, self.pointer(std)?, Arg::Word(numel as u32)];
        let last = [Arg::Word(mean.elem_count() as u32), Arg::Float(to.step), Arg::Float(to.radius)];
        self.launch("pixel_step", [n, 1], [1024, 1], &[&args[..], &more, &last].concat())?;
        Ok(moved)
    }

    /// Address of a value whose elements a kernel counts, which limits their number.
    pub(super) fn pointer(&self, t: &Tensor) -> Result<Arg> {
        if t.elem_count() >= super::ELEMENTS {
            let problem = format!("a value of {:?} has too many elements for a GPU", t.dims());
            return Err(Error::setting("device", problem));
        }
        self.address(t).map(Arg::Pointer)
    }

    /// Queues a kernel with one thread for each of `n` elements.
    pub(super) fn over(&self, name: &'static str, n: usize, args: &[Arg]) -> Result<()> {
        self.launch(name, [n.div_ceil(THREADS), 1], [THREADS as u32, 1], args)
    }
}

fn pool_args(window: WindowGeometry, channels: usize, total: usize) -> [Arg; 3] {
    [Arg::Window(window), Arg::Word(channels as u32), Arg::Word(total as u32)]
}
