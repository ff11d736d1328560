//! Resize and Upsample: along each axis by itself, every element of the output is a weighted sum of a few of the input.
//! Coordinates follow ONNX's formulas in double precision; where the output's length is exactly the input's times the
//! scale, the scale is taken as that fraction, so that no rounding decides which element is nearest.

use rayon::prelude::*;

use super::array::Array;
use super::attributes::{Attribute, Given, Kind};
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Operator, arity};
use super::saved::Saved;
use super::walk::view;
use crate::Result;
use crate::error::printable;
use crate::kernels::buffers;

pub const RESIZE: Operator =
    Operator::new("Resize", &[arity(10, 2, 2), arity(11, 3, 4), arity(13, 1, 4)], lower_resize)
        .attributes(&[
            Attribute::text("mode", "nearest"),
            Attribute::text("coordinate_transformation_mode", "half_pixel").since(11),
            Attribute::text("nearest_mode", "round_prefer_floor").since(11),
            Attribute::float("cubic_coeff_a", -0.75).since(11),
            Attribute::int("exclude_outside", 0).since(11),
            Attribute::float("extrapolation_value", 0.0).since(11), // of tf_crop_and_resize
            Attribute::int("antialias", 0).since(18),
            Attribute::optional("axes", Kind::Ints).since(18),
            Attribute::text("keep_aspect_ratio_policy", "stretch").since(18),
        ])
        .limits(
            "Constant scales or sizes; every mode but tf_crop_and_resize; forms that runtimes compute differently are \
             refused: align_corners with a scale that gives no whole number of elements, and cubic to one element \
             with pytorch_half_pixel.",
        );

pub const UPSAMPLE: Operator = Operator::new("Upsample", &[arity(7, 1, 1), arity(9, 2, 2)], lower_upsample)
    .attributes(&[Attribute::text("mode", "nearest"), Attribute::required("scales", Kind::Floats).until(8)])
    .limits("Constant scales.");

/// How an axis is resized.
struct Scale {
    axis: usize,
    size: usize,
    length: usize,
    /// Length over size; not exactly, if the length was rounded.
    factor: f64,
}

impl Scale {
    fn new(call: &Call, axis: usize, size: usize, factor: f32) -> Result<Self> {
        let exact = f64::from(factor) * size as f64;
        let rounded = f64::from(factor * size as f32);
        if !(exact > 0.0 && exact < f64::from(u32::MAX)) {
            return Err(call.error(format!("a scale of {factor} for a dimension of {size}")));
        }
        if exact.floor() != rounded.floor() {
            return Err(call.error(format!(
                "a dimension of {size} times {factor} is {exact:.7}, which runtimes round differently; \
                 export the model with sizes instead of scales"
            )));
        }
        Ok(Self { axis, size, length: exact as usize, factor: f64::from(factor) })
    }

    /// Whether length over size is the factor exactly.
    fn is_exact(&self) -> bool {
        self.factor * self.size as f64 == self.length as f64
    }

    /// `at` in the output as a distance in the input.
    fn back(&self, at: f64) -> f64 {
        if self.is_exact() { at * self.size as f64 / self.length as f64 } else { at / self.factor }
    }
}

fn lower_resize(call: &Call) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    if call.opset < 11 {
        let scales = call.floats(1)?.unwrap_or_default();
        return resized(call, scaled(call, &shape, &all_axes(&shape), &scales)?, "asymmetric", "floor");
    }
    let axes = match call.ints("axes") {
        Some(axes) => call.axes(axes, shape.len())?,
        None => all_axes(&shape),
    };
    let given = |i: usize| call.has(i) && call.shape(i).is_ok_and(|shape| shape != [0]);
    let scales = match (given(2), given(3)) {
        (true, false) => scaled(call, &shape, &axes, &call.floats(2)?.unwrap_or_default())?,
        (false, true) => sized(call, &shape, &axes)?,
        _ => return Err(call.error("expected either scales or sizes")),
    };
    let mode = call.text("coordinate_transformation_mode").unwrap_or("half_pixel");
    resized(call, scales, mode, call.text("nearest_mode").unwrap_or("round_prefer_floor"))
}

fn lower_upsample(call: &Call) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let scales = match call.attribute("scales") {
        Given::Floats(scales) => scales.to_vec(),
        _ => call.floats(1)?.unwrap_or_default(),
    };
    resized(call, scaled(call, &shape, &all_axes(&shape), &scales)?, "asymmetric", "floor")
}

fn all_axes(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).collect()
}

fn scaled(call: &Call, shape: &[usize], axes: &[usize], scales: &[f32]) -> Result<Vec<Scale>> {
    if scales.len() != axes.len() {
        return Err(call.error(format!("{} scales for {} dimensions", scales.len(), axes.len())));
    }
    axes.iter().zip(scales).map(|(&axis, &factor)| Scale::new(call, axis, shape[axis], factor)).collect()
}

fn sized(call: &Call, shape: &[usize], axes: &[usize]) -> Result<Vec<Scale>> {
    let mut sizes = call.integers(3)?.unwrap_or_default();
    // a file written for one fixed batch has that number here
    if let (Some((written, actual)), Some(0), Some(first)) = (call.batch, axes.first(), sizes.first_mut())
        && *first == written as i64
        && shape.first() == Some(&actual)
    {
        *first = actual as i64;
    }
    let sizes: Option<Vec<usize>> = sizes
        .iter()
        .map(|&s| usize::try_from(s).ok().filter(|s| (1..=u32::MAX as usize).contains(s)))
        .collect();
    let Some(sizes) = sizes.filter(|sizes| sizes.len() == axes.len()) else {
        return Err(call.error(format!("sizes that do not fit {} dimensions", axes.len())));
    };
    let ratios = axes.iter().zip(&sizes).map(|(&axis, &length)| length as f64 / shape[axis] as f64);
    let common = match call.text("keep_aspect_ratio_policy") {
        None | Some("stretch") => None,
        Some("not_larger") => ratios.clone().reduce(f64::min),
        Some("not_smaller") => ratios.clone().reduce(f64::max),
        Some(other) => {
            let problem = format!("attribute `keep_aspect_ratio_policy` is \"{}\"", printable(other));
            return Err(call.error(problem));
        }
    };
    let scale = |((&axis, &length), ratio)| match common {
        None => Scale { axis, size: shape[axis], length, factor: ratio },
        Some(factor) => {
            let length = (factor * shape[axis] as f64 + 0.5).floor() as usize;
            Scale { axis, size: shape[axis], length, factor }
        }
    };
    Ok(axes.iter().zip(&sizes).zip(ratios).map(scale).collect())
}

fn resized(call: &Call, scales: Vec<Scale>, coordinates: &str, nearest: &str) -> Result<Lowered> {
    let from = call.shape(0)?.to_vec();
    let mut to = from.clone();
    scales.iter().for_each(|scale| to[scale.axis] = scale.length);
    call.elements(&to)?;
    let filter = filter(call, nearest)?;
    let mut steps = Vec::new();
    let mut shape = from.clone();
    for scale in scales {
        if scale.length == 0 {
            return Err(call.error(format!("nothing is left of dimension {} of {from:?}", scale.axis)));
        }
        let at = |i: usize| coordinate(call, coordinates, &scale, i as f64, &filter);
        let taps = (0..scale.length).map(|i| Ok(filter.taps(at(i)?, &scale))).collect::<Result<Vec<_>>>()?;
        // a step between may be larger than both ends
        shape[scale.axis] = scale.length;
        call.elements(&shape)?;
        if scale.length != scale.size || taps.iter().enumerate().any(|(i, taps)| taps[..] != [(i, 1.0)]) {
            steps.push(Step::new(scale.axis, scale.size, taps));
        }
    }
    let per_image = steps.iter().all(|step| step.axis > 0);
    call.run(to.clone(), per_image, Resize { steps, from, to })
}

/// The place in the input of element `at` of the output.
fn coordinate(call: &Call, mode: &str, scale: &Scale, at: f64, filter: &Filter) -> Result<f64> {
    let half_pixel = scale.back(at + 0.5) - 0.5;
    Ok(match mode {
        "half_pixel" => half_pixel,
        "asymmetric" => scale.back(at),
        "pytorch_half_pixel" if scale.length == 1 && scale.size > 1 => match filter {
            Filter::Nearest(_) | Filter::Linear { antialias: false } => 0.0,
            _ => {
                return Err(
                    call.error("pytorch_half_pixel with one element left, which runtimes place differently")
                );
            }
        },
        "pytorch_half_pixel" => half_pixel,
        "align_corners" if !scale.is_exact() => {
            return Err(call.error(format!(
                "align_corners with a dimension of {} times {}, no whole number, which runtimes compute \
                 differently; export the model with sizes instead of scales",
                scale.size, scale.factor
            )));
        }
        "align_corners" if scale.length == 1 => 0.0,
        "align_corners" => at * (scale.size - 1) as f64 / (scale.length - 1) as f64,
        "half_pixel_symmetric" => {
            let adjustment = scale.length as f64 / (scale.factor * scale.size as f64);
            scale.size as f64 / 2.0 * (1.0 - adjustment) + half_pixel
        }
        "tf_half_pixel_for_nn" if call.opset < 13 => scale.back(at + 0.5),
        other => {
            let problem = format!("attribute `coordinate_transformation_mode` is \"{}\"", printable(other));
            return Err(call.error(problem));
        }
    })
}

/// The weights around a place.
enum Filter {
    /// Rounds a number.
    Nearest(fn(f64) -> f64),
    Linear {
        antialias: bool,
    },
    Cubic {
        a: f64,
        antialias: bool,
        exclude_outside: bool,
    },
}

fn filter(call: &Call, nearest: &str) -> Result<Filter> {
    let (antialias, exclude_outside) = (call.flag("antialias")?, call.flag("exclude_outside")?);
    Ok(match call.text("mode").unwrap_or("nearest") {
        "nearest" => Filter::Nearest(match nearest {
            "round_prefer_floor" => |x| (x - 0.5).ceil(),
            "round_prefer_ceil" => |x| (x + 0.5).floor(),
            "floor" => f64::floor,
            "ceil" => f64::ceil,
            other => {
                return Err(call.error(format!("attribute `nearest_mode` is \"{}\"", printable(other))));
            }
        }),
        "linear" | "bilinear" => Filter::Linear { antialias },
        "cubic" => {
            let a = f64::from(call.float("cubic_coeff_a")?.unwrap_or(-0.75));
            Filter::Cubic { a, antialias, exclude_outside }
        }
        other => return Err(call.error(format!("attribute `mode` is \"{}\"", printable(other)))),
    })
}

impl Filter {
    /// (index, weight) of what is summed at place `at`. What lies outside is the element at the edge, or left out.
    fn taps(&self, at: f64, scale: &Scale) -> Vec<(usize, f32)> {
        let inside = |i: f64| i.clamp(0.0, (scale.size - 1) as f64) as usize;
        let (reach, shrinks, excludes) = match self {
            Self::Nearest(round) => return vec![(inside(round(at)), 1.0)],
            Self::Linear { antialias } => (1.0, *antialias, false),
            Self::Cubic { antialias, exclude_outside, .. } => (2.0, *antialias, *exclude_outside),
        };
        // antialiasing widens the filter by what the axis shrinks
        let narrow = if shrinks { scale.factor.min(1.0) } else { 1.0 };
        let weight = |i: f64| self.weight((i - at).abs() * narrow);
        let (first, last) = ((at - reach / narrow).floor(), (at + reach / narrow).ceil());
        let (first, last) = (first.max(-1e9), last.min(1e9));
        let mut taps: Vec<(usize, f64)> = Vec::new();
        let mut i = first;
        while i <= last {
            let outside = i < 0.0 || i > (scale.size - 1) as f64;
            let (index, weight) = (inside(i), weight(i));
            match taps.last_mut() {
                _ if weight == 0.0 || (outside && excludes) => {}
                Some(last) if last.0 == index => last.1 += weight,
                _ => taps.push((index, weight)),
            }
            i += 1.0;
        }
        let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        taps.into_iter().map(|(i, weight)| (i, (weight / sum) as f32)).collect()
    }

    /// The weight at a distance of `x` from the centre.
    fn weight(&self, x: f64) -> f64 {
        match self {
            Self::Nearest(_) | Self::Linear { .. } => (1.0 - x).max(0.0),
            Self::Cubic { a, .. } if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Self::Cubic { a, .. } if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Self::Cubic { .. } => 0.0,
        }
    }
}

/// Weighted sums of elements: those of element i are `taps[starts[i]..starts[i + 1]]`.
struct Sums {
    starts: Vec<usize>,
    taps: Vec<(usize, f32)>,
    /// Number of elements that are summed.
    size: usize,
}

impl Sums {
    fn new(size: usize, all: Vec<Vec<(usize, f32)>>) -> Self {
        let mut sums = Self { starts: vec![0], taps: vec![], size };
        for taps in all {
            sums.taps.extend(taps);
            sums.starts.push(sums.taps.len());
        }
        sums
    }

    /// `x`: (outer, size, inner); returns (outer, elements, inner).
    fn apply(&self, x: &[f32], inner: usize) -> Vec<f32> {
        let length = self.starts.len() - 1;
        let outer = x.len() / (self.size * inner).max(1);
        let mut y = buffers::take(outer * length * inner);
        y.par_chunks_mut(inner).enumerate().with_min_len(length.min(64)).for_each(|(row, y)| {
            let (block, i) = (row / length, row % length);
            y.fill(0.0);
            for &(from, weight) in &self.taps[self.starts[i]..self.starts[i + 1]] {
                let x = &x[(block * self.size + from) * inner..][..inner];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            }
        });
        y
    }
}

/// One axis, in both directions.
struct Step {
    axis: usize,
    forward: Sums,
    backward: Sums,
}

impl Step {
    fn new(axis: usize, size: usize, taps: Vec<Vec<(usize, f32)>>) -> Self {
        let mut readers = vec![Vec::new(); size];
        for (i, taps) in taps.iter().enumerate() {
            taps.iter().for_each(|&(from, weight)| readers[from].push((i, weight)));
        }
        let backward = Sums::new(taps.len(), readers);
        Self { axis, forward: Sums::new(size, taps), backward }
    }
}

struct Resize {
    steps: Vec<Step>,
    from: Vec<usize>,
    to: Vec<usize>,
}

impl Resize {
    fn walk<'a>(
        &self,
        value: Array,
        steps: impl Iterator<Item = (usize, &'a Sums)>,
        to: &[usize],
    ) -> Result<Array> {
        let mut shape = value.dims().to_vec();
        let mut data = value.into_vec()?;
        for (axis, sums) in steps {
            let [_, _, inner] = view(&shape, axis);
            let next = sums.apply(&data, inner);
            buffers::give(std::mem::replace(&mut data, next));
            shape[axis] = sums.starts.len() - 1;
        }
        debug_assert_eq!(shape, to);
        Array::new(data, to)
    }
}

impl Exec for Resize {
    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        self.walk(only(x)?, self.steps.iter().map(|s| (s.axis, &s.forward)), &self.to)
    }

    fn vjp(&self, _: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        let steps = self.steps.iter().rev().map(|s| (s.axis, &s.backward));
        Ok(vec![Some(self.walk(dy, steps, &self.from)?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_to_one_and_stay_inside() {
        for length in [1, 2, 3, 7, 12] {
            let scale = Scale { axis: 0, size: 5, length, factor: length as f64 / 5.0 };
            for (antialias, exclude_outside) in [(false, false), (true, false), (true, true), (false, true)] {
                let cubic = Filter::Cubic { a: -0.75, antialias, exclude_outside };
                for filter in [cubic, Filter::Linear { antialias }] {
                    for i in 0..length {
                        let taps = filter.taps(scale.back(i as f64 + 0.5) - 0.5, &scale);
                        assert!(taps.iter().all(|t| t.0 < 5));
                        assert!((taps.iter().map(|t| t.1).sum::<f32>() - 1.0).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn halves_are_rounded_as_asked() {
        let scale = Scale { axis: 0, size: 9, length: 9, factor: 1.0 };
        let nearest = |round: fn(f64) -> f64, at: f64| Filter::Nearest(round).taps(at, &scale)[0].0;
        for at in [0.5, 1.5, 2.5] {
            assert_eq!(nearest(|x| (x - 0.5).ceil(), at), at as usize);
            assert_eq!(nearest(|x| (x + 0.5).floor(), at), at as usize + 1);
        }
        assert_eq!(nearest(f64::floor, -3.0), 0);
        assert_eq!(nearest(f64::ceil, 99.0), 8);
    }
}
