//! LRN: divides each channel by a power of the sum of squares over its neighbours (local response normalization).

use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Kind};
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, UNARY};
use super::saved::Saved;
use crate::Result;
use crate::kernels::buffers;

pub const LRN: Operator = Operator::new("LRN", UNARY, lower).attributes(&[
    Attribute::float("alpha", 1e-4),
    Attribute::float("beta", 0.75),
    Attribute::float("bias", 1.0),
    Attribute::required("size", Kind::Int),
]);

fn lower(call: &Call) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let &[n, channels, ref inner @ ..] = shape.as_slice() else {
        return Err(call.error(format!("input 0 has shape {shape:?}, expected two dimensions or more")));
    };
    call.elements(&shape)?;
    let size = call.int("size").unwrap_or(0);
    let size = usize::try_from(size).ok().filter(|&s| (1..=u16::MAX.into()).contains(&s));
    let size = size.ok_or_else(|| call.error("attribute `size` is no positive number of channels"))?;
    let inner: usize = inner.iter().product();
    let exec = Lrn {
        alpha: f64::from(call.number("alpha")?) / size as f64,
        beta: f64::from(call.number("beta")?),
        bias: f64::from(call.number("bias")?),
        // an even window reaches one channel further behind than before
        reach: [(size - 1) / 2, size / 2],
        // images lie channels-last in memory
        view: if shape.len() == 4 { [n * inner, channels, 1] } else { [n, channels, inner] },
    };
    call.run(shape, true, exec)
}

struct Lrn {
    /// Of a single square.
    alpha: f64,
    beta: f64,
    bias: f64,
    /// Channels before and behind.
    reach: [usize; 2],
    /// Elements before, along and after the channels in memory.
    view: [usize; 3],
}

impl Lrn {
    /// For channel `c`: the sum over its window, given what is summed by channel.
    fn window(&self, c: usize, reach: [usize; 2], of: impl Fn(usize) -> f64) -> f64 {
        (c.saturating_sub(reach[0])..=(c + reach[1]).min(self.view[1] - 1)).map(of).sum()
    }

    /// What the elements of position `i` are divided by, before the power.
    fn divisors(&self, x: &[f32], i: usize) -> Vec<f64> {
        let at = |c: usize| f64::from(x[c * self.view[2] + i]);
        let divisor = |c: usize| self.bias + self.alpha * self.window(c, self.reach, |c| at(c) * at(c));
        (0..self.view[1]).map(divisor).collect()
    }

    /// `work(x, y, i)` for every position i of each block (channels, inner) of x and of y.
    fn each(&self, x: &[f32], y: &mut [f32], work: impl Fn(&[f32], &mut [f32], usize) + Sync) {
        let block = self.view[1] * self.view[2];
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            (0..self.view[2]).for_each(|i| work(x, y, i));
        });
    }
}

impl Exec for Lrn {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        if let Some(keep) = keep {
            keep.array(&x);
        }
        let mut y = buffers::take(x.len());
        self.each(&x.read()?, &mut y, |x, y, i| {
            for (c, divisor) in self.divisors(x, i).into_iter().enumerate() {
                let at = c * self.view[2] + i;
                y[at] = (f64::from(x[at]) * divisor.powf(-self.beta)) as f32;
            }
        });
        Array::new(y, x.dims())
    }

    /// With d the divisors: dy d^-beta - 2 alpha beta x sum(dy x d^(-beta - 1)) over the windows that hold the channel.
    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let x = kept.get_array(0)?;
        let shape = dy.dims().to_vec();
        let mut dx = dy.into_vec()?;
        self.each(&x.read()?, &mut dx, |x, dx, i| {
            let divisors = self.divisors(x, i);
            let at = |c: usize| c * self.view[2] + i;
            let steep = |c: usize| f64::from(x[at(c)]) * divisors[c].powf(-self.beta - 1.0);
            let shared: Vec<f64> = (0..divisors.len()).map(|c| f64::from(dx[at(c)]) * steep(c)).collect();
            for (c, divisor) in divisors.iter().enumerate() {
                let around = self.window(c, [self.reach[1], self.reach[0]], |c| shared[c]);
                let own = f64::from(dx[at(c)]) * divisor.powf(-self.beta);
                dx[at(c)] = (own - 2.0 * self.alpha * self.beta * f64::from(x[at(c)]) * around) as f32;
            }
        });
        Ok(vec![Some(Array::new(dx, &shape)?)])
    }
}
