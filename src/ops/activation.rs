//! Element-wise functions of one number. Where there is no derivative, the slope is PyTorch's: 0 for Relu at 0, Clip
//! at its bounds, HardSigmoid at its knees. (clamp has been 0 there only since PyTorch 2.14; hardtanh and relu6, from
//! which most Clips are exported, always were.)

use super::array::Array;
use super::attributes::Attribute;
use super::call::{Call, Lowered};
use super::exec::{Exec, only};
use super::operator::{Arity, Operator, Placement, UNARY, arity};
use super::saved::Saved;
use crate::Result;
use crate::kernels::{Bits, buffers, pointwise};
use crate::onnx::tensor::DataType;

const fn unary(
    name: &'static str,
    inputs: &'static [Arity],
    attributes: &'static [Attribute],
    lower: fn(&Call) -> Result<Lowered>,
) -> Operator {
    Operator::new(name, inputs, lower).attributes(attributes)
}

pub const RELU: Operator =
    unary("Relu", UNARY, &[], |call| elementwise(call, Relu)).on_gpu(Placement::Kernel);

pub const LEAKY_RELU: Operator = unary("LeakyRelu", UNARY, &[Attribute::float("alpha", 0.01)], |call| {
    elementwise(call, Pointwise(LeakyRelu(call.number("alpha")?)))
})
.on_gpu(Placement::Kernel);

pub const ELU: Operator = unary("Elu", UNARY, &[Attribute::float("alpha", 1.0)], |call| {
    elementwise(call, Pointwise(Elu(call.number("alpha")?)))
});

pub const CLIP: Operator = unary(
    "Clip",
    &[arity(7, 1, 1), arity(11, 1, 3)],
    &[Attribute::float("min", f32::MIN).until(10), Attribute::float("max", f32::MAX).until(10)],
    |call| {
        let bound = |name: &str, i: usize| -> Result<Option<f32>> {
            let given = match call.floats(i)?.as_deref() {
                None => return call.float(name),
                Some(&[v]) if !v.is_nan() => v,
                Some(other) => {
                    return Err(
                        call.error(format!("`{name}` has {} values, expected one number", other.len()))
                    );
                }
            };
            Ok(Some(given))
        };
        let least = bound("min", 1)?.unwrap_or(f32::NEG_INFINITY);
        let most = bound("max", 2)?.unwrap_or(f32::INFINITY);
        elementwise(call, Clip { least, most })
    },
)
.limits("Constant bounds.");

pub const SIGMOID: Operator =
    unary("Sigmoid", UNARY, &[], |call| elementwise(call, Pointwise(Sigmoid))).on_gpu(Placement::Kernel);

pub const HARD_SIGMOID: Operator =
    unary("HardSigmoid", UNARY, &[Attribute::float("alpha", 0.2), Attribute::float("beta", 0.5)], |call| {
        let (alpha, beta) = (call.number("alpha")?, call.number("beta")?);
        // the inputs where alpha x + beta is 0 and 1, rounded once: exactly -3 and 3, as in PyTorch
        let knee = |t: f64| ((t - f64::from(beta)) / f64::from(alpha)) as f32;
        let (a, b) = if alpha == 0.0 { (0.0, 0.0) } else { (knee(0.0), knee(1.0)) };
        elementwise(call, Pointwise(HardSigmoid { alpha, beta, from: a.min(b), to: a.max(b) }))
    })
    .on_gpu(Placement::Kernel);

pub const HARD_SWISH: Operator =
    unary("HardSwish", &[arity(14, 1, 1)], &[], |call| elementwise(call, Pointwise(HardSwish)))
        .on_gpu(Placement::Kernel);

pub const SWISH: Operator = unary("Swish", &[arity(24, 1, 1)], &[Attribute::float("alpha", 1.0)], |call| {
    elementwise(call, Pointwise(Swish(call.number("alpha")?)))
})
.on_gpu(Placement::Kernel);

pub const GELU: Operator =
    unary("Gelu", &[arity(20, 1, 1)], &[Attribute::text("approximate", "none")], |call| {
        match call.text("approximate") {
            Some("none") => elementwise(call, Pointwise(GeluErf)),
            Some("tanh") => elementwise(call, Pointwise(GeluTanh)),
            _ => Err(call.error("attribute `approximate` is neither \"none\" nor \"tanh\"")),
        }
    })
    .on_gpu(Placement::Kernel);

pub const TANH: Operator =
    unary("Tanh", UNARY, &[], |call| elementwise(call, Pointwise(Tanh))).on_gpu(Placement::Kernel);
pub const ERF: Operator = unary("Erf", &[arity(9, 1, 1)], &[], |call| elementwise(call, Pointwise(Erf)));
pub const SOFTPLUS: Operator = unary("Softplus", UNARY, &[], |call| elementwise(call, Pointwise(Softplus)));
pub const EXP: Operator = unary("Exp", UNARY, &[], |call| elementwise(call, Pointwise(Exp)));
pub const SQRT: Operator = unary("Sqrt", UNARY, &[], |call| elementwise(call, Pointwise(Sqrt)));
pub const NEG: Operator = unary("Neg", UNARY, &[], |call| {
    whole(call, i64::checked_neg).unwrap_or_else(|| elementwise(call, Pointwise(Neg)))
});
pub const ABS: Operator = unary("Abs", UNARY, &[], |call| {
    whole(call, i64::checked_abs).unwrap_or_else(|| elementwise(call, Pointwise(Abs)))
});

pub const RECIPROCAL: Operator =
    unary("Reciprocal", UNARY, &[], |call| elementwise(call, Pointwise(Over(1.0))));
pub const LOG: Operator = unary("Log", UNARY, &[], |call| elementwise(call, Pointwise(Log)));
pub const SIN: Operator = unary("Sin", UNARY, &[], |call| elementwise(call, Pointwise(Sin)));
pub const COS: Operator = unary("Cos", UNARY, &[], |call| elementwise(call, Pointwise(Cos)));
pub const SOFTSIGN: Operator = unary("Softsign", UNARY, &[], |call| elementwise(call, Pointwise(Softsign)));
pub const MISH: Operator = unary("Mish", &[arity(18, 1, 1)], &[], |call| elementwise(call, Pointwise(Mish)));

pub const SELU: Operator = unary(
    "Selu",
    UNARY,
    &[Attribute::float("alpha", 1.673_263_2), Attribute::float("gamma", 1.050_701)],
    |call| elementwise(call, Pointwise(Selu { alpha: call.number("alpha")?, gamma: call.number("gamma")? })),
);

pub const CELU: Operator = unary("Celu", &[arity(12, 1, 1)], &[Attribute::float("alpha", 1.0)], |call| {
    match call.number("alpha")? {
        0.0 => Err(call.error("attribute `alpha` is 0, which it divides by")),
        alpha => elementwise(call, Pointwise(Celu(alpha))),
    }
});

pub const THRESHOLDED_RELU: Operator =
    unary("ThresholdedRelu", &[arity(10, 1, 1)], &[Attribute::float("alpha", 1.0)], |call| {
        elementwise(call, Pointwise(ThresholdedRelu(call.number("alpha")?)))
    });

pub const FLOOR: Operator = unary("Floor", UNARY, &[], |call| elementwise(call, Stepwise(f32::floor)));
pub const CEIL: Operator = unary("Ceil", UNARY, &[], |call| elementwise(call, Stepwise(f32::ceil)));
pub const ROUND: Operator =
    unary("Round", &[arity(11, 1, 1)], &[], |call| elementwise(call, Stepwise(f32::round_ties_even)));

pub const SIGN: Operator = unary("Sign", &[arity(9, 1, 1)], &[], |call| {
    let sign = |x: f32| if x == 0.0 || x.is_nan() { x } else { x.signum() };
    whole(call, |x| Some(x.signum())).unwrap_or_else(|| elementwise(call, Stepwise(sign)))
});

pub const NOT: Operator = unary("Not", UNARY, &[], |call| {
    if !call.is_integer() {
        return Err(call.error("input 0 holds floats, expected booleans"));
    }
    let of_image = || call.run(call.shape(0)?.to_vec(), true, Stepwise(|x| f32::from(x == 0.0)));
    whole(call, |x| Some(i64::from(x == 0))).unwrap_or_else(of_image)
});

pub const IS_NAN: Operator = unary("IsNaN", &[arity(9, 1, 1)], &[], |call| test(call, f32::is_nan));

pub const IS_INF: Operator = unary(
    "IsInf",
    &[arity(10, 1, 1)],
    &[Attribute::int("detect_negative", 1), Attribute::int("detect_positive", 1)],
    |call| match (call.flag("detect_negative")?, call.flag("detect_positive")?) {
        (true, true) => test(call, f32::is_infinite),
        (true, false) => test(call, |x| x == f32::NEG_INFINITY),
        (false, true) => test(call, |x| x == f32::INFINITY),
        (false, false) => test(call, |_| false),
    },
);

/// A question about each float.
fn test(call: &Call, holds: fn(f32) -> bool) -> Result<Lowered> {
    let shape = call.float_shape(0)?.to_vec();
    let Some(constant) = call.now(0) else {
        return call.run_as(DataType::Bool, shape, true, Question(holds));
    };
    let values: Vec<f32> = constant.flatten_all()?.to_vec1()?;
    let values: Vec<i64> = values.into_iter().map(|x| i64::from(holds(x))).collect();
    call.known(&candle_core::Tensor::from_vec(values, shape, constant.device())?)
}

/// The function of constant integers; None for other inputs. The function gives None where int64 does not hold the
/// result.
fn whole(call: &Call, function: impl Fn(i64) -> Option<i64>) -> Option<Result<Lowered>> {
    let constant = call.now(0).filter(|t| t.dtype() == candle_core::DType::I64)?;
    let computed = || {
        let values: Vec<i64> = constant.flatten_all()?.to_vec1()?;
        let values: Option<Vec<i64>> = values.into_iter().map(function).collect();
        let values = values.ok_or_else(|| call.error("a number beyond int64"))?;
        call.known(&candle_core::Tensor::from_vec(values, constant.dims(), constant.device())?)
    };
    Some(computed())
}

fn elementwise(call: &Call, exec: impl Exec + 'static) -> Result<Lowered> {
    call.run(call.float_shape(0)?.to_vec(), true, exec)
}

/// A function of one number.
pub(super) trait Function: Send + Sync + 'static {
    /// The argument of [`Function::slope`].
    const FROM: SlopeOf;
    fn value(&self, x: f32) -> f32;
    /// The slope, given the input or the output.
    fn slope(&self, from: f32) -> f32;
    /// The function's code in the GPU kernels; None if they do not have it.
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        None
    }
}

/// A function with a code in the GPU kernels.
const fn code(code: i32, given: [f32; 2]) -> Option<crate::kernels::gpu::Code> {
    Some(crate::kernels::gpu::Code { code, given, between: [0.0; 2] })
}

/// The value that a slope is computed from.
#[derive(PartialEq, Eq)]
pub(super) enum SlopeOf {
    Input,
    Output,
    /// The slope is constant.
    Nothing,
}

/// Applies a [`Function`] to each element.
pub(super) struct Pointwise<F>(pub F);

impl<F: Function> Exec for Pointwise<F> {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        self.0.code().map(|_| self as _)
    }

    fn forward(&self, x: Vec<Array>, mut keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        if let (Some(keep), SlopeOf::Input) = (&mut keep, F::FROM) {
            keep.array(&x);
        }
        let value = |v: f32| self.0.value(v);
        let y = x.map(|from, data| match from {
            None => pointwise::map_in_place(data, value),
            Some(from) => pointwise::map(from, data, value),
        })?;
        if let (Some(keep), SlopeOf::Output) = (keep, F::FROM) {
            keep.array(&y);
        }
        Ok(y)
    }

    fn recompute(&self, kept: &Saved) -> Option<Result<Array>> {
        let value = |v: f32| self.0.value(v);
        let computed = || {
            kept.get_array(0)?.clone().map(|from, data| match from {
                None => pointwise::map_in_place(data, value),
                Some(from) => pointwise::map(from, data, value),
            })
        };
        match F::FROM {
            SlopeOf::Input => Some(computed()),
            SlopeOf::Output => Some(kept.get_array(0).cloned()),
            SlopeOf::Nothing => None,
        }
    }

    fn can_recompute(&self) -> bool {
        F::FROM != SlopeOf::Nothing
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        if F::FROM == SlopeOf::Nothing {
            let slope = self.0.slope(0.0);
            let dx = dy.map(|from, data| match from {
                None => pointwise::map_in_place(data, |g| g * slope),
                Some(from) => pointwise::scale(from, slope, data),
            })?;
            return Ok(vec![Some(dx)]);
        }
        let kept = kept.get_array(0)?.read()?;
        let times = |g: f32, v: f32| g * self.0.slope(v);
        let dx = dy.map(|from, data| match from {
            None => pointwise::zip_in_place(data, &kept, times),
            Some(from) => pointwise::zip(from, &kept, data, times),
        })?;
        Ok(vec![Some(dx)])
    }
}

struct LeakyRelu(f32);
impl Function for LeakyRelu {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(0, [self.0, 0.0])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        if x < 0.0 { self.0 * x } else { x }
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { self.0 }
    }
}

struct Elu(f32);
impl Function for Elu {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        if x < 0.0 { self.0 * x.exp_m1() } else { x }
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { self.0 * x.exp() }
    }
}

pub(super) struct Sigmoid;
impl Function for Sigmoid {
    const FROM: SlopeOf = SlopeOf::Output;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(1, [0.0; 2])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        pointwise::sigmoid_of(x)
    }
    #[inline(always)]
    fn slope(&self, y: f32) -> f32 {
        y * (1.0 - y)
    }
}

struct HardSigmoid {
    alpha: f32,
    beta: f32,
    /// The slope is alpha strictly between these two inputs, 0 elsewhere.
    from: f32,
    to: f32,
}
impl Function for HardSigmoid {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        let Self { alpha, beta, from, to } = *self;
        Some(crate::kernels::gpu::Code { code: 2, given: [alpha, beta], between: [from, to] })
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        (self.alpha * x + self.beta).clamp(0.0, 1.0)
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if self.from < x && x < self.to { self.alpha } else { 0.0 }
    }
}

struct HardSwish;
impl Function for HardSwish {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(3, [0.0; 2])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0)
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if x <= -3.0 {
            0.0
        } else if x < 3.0 {
            x * (1.0 / 3.0) + 0.5
        } else {
            1.0
        }
    }
}

struct Swish(f32);
impl Function for Swish {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(4, [self.0, 0.0])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x * Sigmoid.value(self.0 * x)
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let s = Sigmoid.value(self.0 * x);
        s + self.0 * x * s * (1.0 - s)
    }
}

fn erf(x: f64) -> f64 {
    candle_core::cpu::erf::erf_f64(x)
}

struct GeluErf;
impl Function for GeluErf {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(5, [0.0; 2])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        (f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let wide = f64::from(x);
        let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (0.5 * (1.0 + erf(wide * std::f64::consts::FRAC_1_SQRT_2)) + wide * density) as f32
    }
}

struct GeluTanh;
impl GeluTanh {
    const FACTOR: f32 = 0.797_884_6; // sqrt(2 / pi)
    const CUBE: f32 = 0.044_715;
}
impl Function for GeluTanh {
    const FROM: SlopeOf = SlopeOf::Input;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(6, [0.0; 2])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        0.5 * x * (1.0 + (Self::FACTOR * (x + Self::CUBE * x * x * x)).tanh())
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let t = (Self::FACTOR * (x + Self::CUBE * x * x * x)).tanh();
        0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * Self::FACTOR * (1.0 + 3.0 * Self::CUBE * x * x)
    }
}

struct Tanh;
impl Function for Tanh {
    const FROM: SlopeOf = SlopeOf::Output;
    fn code(&self) -> Option<crate::kernels::gpu::Code> {
        code(7, [0.0; 2])
    }
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.tanh()
    }
    #[inline(always)]
    fn slope(&self, y: f32) -> f32 {
        1.0 - y * y
    }
}

struct Erf;
impl Function for Erf {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        erf(f64::from(x)) as f32
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp()
    }
}

struct Softplus;
impl Function for Softplus {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        Sigmoid.value(x)
    }
}

struct Exp;
impl Function for Exp {
    const FROM: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.exp()
    }
    #[inline(always)]
    fn slope(&self, y: f32) -> f32 {
        y
    }
}

struct Sqrt;
impl Function for Sqrt {
    const FROM: SlopeOf = SlopeOf::Output;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.sqrt()
    }
    #[inline(always)]
    fn slope(&self, y: f32) -> f32 {
        0.5 / y
    }
}

struct Neg;
impl Function for Neg {
    const FROM: SlopeOf = SlopeOf::Nothing;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        -x
    }
    #[inline(always)]
    fn slope(&self, _: f32) -> f32 {
        -1.0
    }
}

struct Abs;
impl Function for Abs {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.abs()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if x == 0.0 { 0.0 } else { x.signum() }
    }
}

struct Log;
impl Function for Log {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.ln()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        1.0 / x
    }
}

struct Sin;
impl Function for Sin {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.sin()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        x.cos()
    }
}

struct Cos;
impl Function for Cos {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.cos()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        -x.sin()
    }
}

struct Softsign;
impl Function for Softsign {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x / (1.0 + x.abs())
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let scale = 1.0 / (1.0 + x.abs());
        scale * scale
    }
}

struct Mish;
impl Function for Mish {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x * Softplus.value(x).tanh()
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        let t = Softplus.value(x).tanh();
        t + x * (1.0 - t * t) * Sigmoid.value(x)
    }
}

struct Selu {
    alpha: f32,
    gamma: f32,
}
impl Function for Selu {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        self.gamma * if x > 0.0 { x } else { self.alpha * x.exp_m1() }
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        self.gamma * if x > 0.0 { 1.0 } else { self.alpha * x.exp() }
    }
}

struct Celu(f32);
impl Function for Celu {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.max(0.0) + (self.0 * (x / self.0).exp_m1()).min(0.0)
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { (x / self.0).exp() }
    }
}

struct ThresholdedRelu(f32);
impl Function for ThresholdedRelu {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        if x > self.0 { x } else { 0.0 }
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        f32::from(x > self.0)
    }
}

/// A function that is constant almost everywhere, so that no gradient passes.
pub(super) struct Stepwise(pub fn(f32) -> f32);

impl Exec for Stepwise {
    fn differentiable(&self, _: usize) -> bool {
        false
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        only(x)?.map(|from, data| match from {
            None => pointwise::map_in_place(data, self.0),
            Some(from) => pointwise::map(from, data, self.0),
        })
    }

    fn vjp(&self, _: &Saved, _: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![None])
    }
}

/// 1 where it holds, else 0.
struct Question(fn(f32) -> bool);

impl Exec for Question {
    fn differentiable(&self, _: usize) -> bool {
        false
    }

    fn forward(&self, x: Vec<Array>, _: Option<&mut Saved>) -> Result<Array> {
        let value = |x: f32| f32::from(self.0(x));
        only(x)?.map(|from, data| match from {
            None => pointwise::map_in_place(data, value),
            Some(from) => pointwise::map(from, data, value),
        })
    }

    fn vjp(&self, _: &Saved, _: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![None])
    }
}

/// `x` to a constant power.
pub(super) struct Power(pub f32);
impl Function for Power {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        x.powf(self.0)
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        if self.0 == 0.0 { 0.0 } else { self.0 * x.powf(self.0 - 1.0) }
    }
}

/// A constant divided by `x`.
pub(super) struct Over(pub f32);
impl Function for Over {
    const FROM: SlopeOf = SlopeOf::Input;
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        self.0 / x
    }
    #[inline(always)]
    fn slope(&self, x: f32) -> f32 {
        -self.0 / (x * x)
    }
}

pub(super) struct Relu;

impl Exec for Relu {
    fn on_gpu(&self, _: &[usize]) -> Option<&dyn super::on_gpu::OnGpu> {
        Some(self)
    }

    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let mut mask = keep.is_some().then(|| mask_for(x.dims(), x.len()));
        let y = x.map(|from, data| match from {
            None => pointwise::relu_in_place(data, mask.as_mut()),
            Some(from) => pointwise::relu(from, data, mask.as_mut()),
        })?;
        if let (Some(keep), Some(mask)) = (keep, mask) {
            keep.bits(mask);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(masked(kept, dy)?)])
    }
}

struct Clip {
    least: f32,
    most: f32,
}

impl Clip {
    /// The upper bound wins if it is below the lower one; NaN stays NaN.
    #[inline(always)]
    fn value(&self, x: f32) -> f32 {
        let x = if x < self.least { self.least } else { x };
        if x > self.most { self.most } else { x }
    }
}

impl Exec for Clip {
    fn forward(&self, x: Vec<Array>, keep: Option<&mut Saved>) -> Result<Array> {
        let x = only(x)?;
        let shape = x.dims().to_vec();
        let mut data = x.into_vec()?;
        let mut mask = keep.as_ref().map(|_| mask_for(&shape, data.len()));
        if let Some(mask) = &mut mask {
            let (least, most) = (self.least, self.most);
            let mut inside = buffers::take(data.len());
            pointwise::map(&data, &mut inside, |x| if least < x && x < most { 1.0 } else { 0.0 });
            pointwise::positive(&inside, mask);
            buffers::give(inside);
        }
        pointwise::map_in_place(&mut data, |x| self.value(x));
        if let (Some(keep), Some(mask)) = (keep, mask) {
            keep.bits(mask);
        }
        Array::new(data, &shape)
    }

    fn vjp(&self, kept: &Saved, dy: Array, _: &[bool]) -> Result<Vec<Option<Array>>> {
        Ok(vec![Some(masked(kept, dy)?)])
    }
}

/// An empty mask for a value of `shape`, one row per image.
pub(super) fn mask_for(shape: &[usize], elements: usize) -> Bits {
    let rows = shape.first().copied().unwrap_or(1);
    Bits::new(rows, elements / rows.max(1))
}

/// `dy` where the saved mask is set, 0 elsewhere.
pub(super) fn masked(kept: &Saved, dy: Array) -> Result<Array> {
    let mask = kept.get_bits(0)?;
    dy.map(|from, data| match from {
        None => pointwise::masked_in_place(data, mask),
        Some(from) => pointwise::masked(from, mask, data),
    })
}
