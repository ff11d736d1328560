//! MaxPool and AveragePool in every form, and the global pools.

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::axes_rules;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::line::run_on_images;
use super::operator::{Operator, Placement, UNARY, arity};
use super::reduction::over_pixels;
use super::saved::Saved;
use super::window::{AUTO_PAD, PADS, STRIDES, image_or_line, window};
use crate::Result;
use crate::kernels::{Window, buffers, pool};

pub const MAX_POOL: Operator = Operator::new("MaxPool", UNARY, lower_max)
    .attributes(&[
        AUTO_PAD,
        Attribute::int("ceil_mode", 0).since(10),
        Attribute::optional("dilations", Kind::Ints).since(10),
        Attribute::required("kernel_shape", Kind::Ints),
        PADS,
        Attribute::int("storage_order", 0).since(8), // order of the indices, an output that is refused
        STRIDES,
    ])
    .outputs(&[arity(7, 1, 1), arity(8, 1, 2)], &["Indices"])
    .limits("Images, (N, C, H, W), and lines, (N, C, W); Indices are not computed.")
    .on_gpu(Placement::Partly);

pub const AVERAGE_POOL: Operator = Operator::new("AveragePool", UNARY, lower_average)
    .attributes(&[
        AUTO_PAD,
        Attribute::int("ceil_mode", 0).since(10),
        Attribute::int("count_include_pad", 0),
        Attribute::optional("dilations", Kind::Ints).since(19),
        Attribute::required("kernel_shape", Kind::Ints),
        PADS,
        STRIDES,
    ])
    .limits("Images, (N, C, H, W), and lines, (N, C, W).")
    .on_gpu(Placement::Partly)
    .axes(axes_rules::pooled);

pub const GLOBAL_AVERAGE_POOL: Operator = Operator::new("GlobalAveragePool", UNARY, lower_global_average)
    .limits("Images, (N, C, H, W), and lines, (N, C, W).")
    .on_gpu(Placement::Partly)
    .axes(axes_rules::globally_pooled);

pub const GLOBAL_MAX_POOL: Operator = Operator::new("GlobalMaxPool", UNARY, lower_global_max)
    .limits("Images, (N, C, H, W), and lines, (N, C, W).")
    .on_gpu(Placement::Partly)
    .axes(axes_rules::globally_pooled);

/// Common to both pools: the input's shape, the window, `ceil_mode` and the output's shape.
fn geometry(call: &Call) -> Result<([usize; 4], Window, bool, [usize; 4])> {
    let [n, c, h, w] = image_or_line(call, 0)?;
    // with `auto_pad` the output size follows from the stride alone
    let ceil = call.flag("ceil_mode")? && call.text("auto_pad") == Some("NOTSET");
    let (window, [oh, ow]) = window(call, None, [h, w], ceil)?;
    for a in 0..2 {
        let span = (window.kernel[a] - 1) * window.dilation[a] + 1;
        if window.pads[a] >= span || window.pads[a + 2] >= span {
            return Err(call.error(format!(
                "a padding of {:?} with windows of {span}: some would lie in the padding alone",
                window.pads
            )));
        }
    }
    let taps = window.taps();
    call.elements(&[oh, ow, taps])?;
    Ok(([n, c, h, w], window, ceil, [n, c, oh, ow]))
}

fn lower_max(call: &Call) -> Result<Lowered> {
    let ([_, _, h, w], window, ceil, to) = geometry(call)?;
    call.elements(&to)?;
    run_on_images(call, to, Max::new(window, ceil, [h, w], to))
}

fn lower_global_max(call: &Call) -> Result<Lowered> {
    let [n, c, h, w] = image_or_line(call, 0)?;
    let to = [n, c, 1, 1];
    run_on_images(call, to, Max::new(Window::new([h, w]), false, [h, w], to))
}

pub(super) struct Max {
    pool: pool::MaxPool,
    pub(super) window: Window,
    pub(super) input: [usize; 2],
    pub(super) to: [usize; 4],
}

impl Max {
    fn new(window: Window, ceil: bool, input: [usize; 2], to: [usize; 4]) -> Self {
        Self { pool: pool::MaxPool::new(&window, ceil, to[1], input), window, input, to }
    }
}

impl Exec for Max {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let n = self.to[0];
        let mut y = buffers::take(self.to.iter().product());
        match keep {
            None => self.pool.forward(&x.read()?, n, &mut y, None),
            Some(keep) => {
                let mut indices = vec![0; y.len()];
                self.pool.forward(&x.read()?, n, &mut y, Some(&mut indices));
                keep.indices(n, indices);
            }
        }
        Array::new(y, &self.to)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let [n, c, ..] = self.to;
        let shape = [n, c, self.input[0], self.input[1]];
        let mut dx = buffers::take(shape.iter().product());
        self.pool.backward(&dy.read()?, kept.get_indices(0)?, n, &mut dx);
        Ok(vec![Some(Array::new(dx, &shape)?)])
    }
}

fn lower_average(call: &Call) -> Result<Lowered> {
    let (from, window, ceil, to) = geometry(call)?;
    call.elements(&to)?;
    let [_, c, h, w] = from;
    let pool = pool::AveragePool::new(&window, ceil, call.flag("count_include_pad")?, c, [h, w]);
    let exec = Average { pool, window, from, to, counts: std::sync::OnceLock::new() };
    run_on_images(call, to, exec)
}

fn lower_global_average(call: &Call) -> Result<Lowered> {
    let [n, c, h, w] = image_or_line(call, 0)?;
    let to = [n, c, 1, 1];
    run_on_images(call, to, over_pixels([n, c, h, w], 1.0, to.to_vec()))
}

pub(super) struct Average {
    pub(super) pool: pool::AveragePool,
    pub(super) window: Window,
    pub(super) from: [usize; 4],
    pub(super) to: [usize; 4],
    /// On a GPU: the divisor of each output pixel.
    pub(super) counts: std::sync::OnceLock<candle_core::Tensor>,
}

impl Exec for Average {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let mut y = buffers::take(self.to.iter().product());
        self.pool.forward(&only(x)?.read()?, self.to[0], &mut y);
        Array::new(y, &self.to)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let mut dx = buffers::take(self.from.iter().product());
        self.pool.backward(&dy.read()?, self.to[0], &mut dx);
        Ok(vec![Some(Array::new(dx, &self.from)?)])
    }
}
