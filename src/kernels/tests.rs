//! Convolutions against the plain loops of `reference`.

use proptest::prelude::*;

use super::cpu::bf16;
use super::reference::{Conv, difference, values};
use super::winograd::Winograd;
use super::*;

#[derive(Clone, Debug)]
struct Case {
    window: Window,
    groups: usize,
    channels: [usize; 2],
    input: [usize; 2],
    n: usize,
}

impl Case {
    fn check(&self) {
        let Case { window, groups, channels, input, n } = self.clone();
        let Some(output) = window.output(input, false) else { return };
        let weight = values(channels[1] * channels[0] / groups * window.taps(), 1);
        let bias = values(channels[1], 2);
        let x = values(n * input[0] * input[1] * channels[0], 3);
        let size = n * output[0] * output[1] * channels[1];
        let (dy, residual) = (values(size, 4), values(size, 5));
        let truth = Conv { window: &window, groups, channels, input, weight: &weight };
        let conv = Conv2d::new(window.clone(), groups, channels, input, &weight, Some(&bias));
        assert_eq!(conv.output(), output);

        let mut y = vec![f32::NAN; size];
        conv.forward(&x, n, &mut y, Epilogue::default());
        let plain = truth.forward(&x, n, Some(&bias));
        assert!(difference(&y, &plain) < 5e-6, "{self:?} forward {}", difference(&y, &plain));

        let mut mask = Bits::new(n, size / n);
        let mut z = vec![f32::NAN; size];
        let epilogue = Epilogue { residual: Some(&residual), relu: true, mask: Some(&mut mask) };
        conv.forward(&x, n, &mut z, epilogue);
        let finished: Vec<f32> = y.iter().zip(&residual).map(|(y, r)| (y + r).max(0.0)).collect();
        assert!(difference(&z, &finished) < 1e-6, "{self:?} epilogue");
        for (i, z) in z.iter().enumerate() {
            assert_eq!(mask.get(i / (size / n), i % (size / n)), *z > 0.0, "{self:?} mask {i}");
        }

        let (mut sum, mut above, mut positive) = (z, Bits::new(n, size / n), Bits::new(n, size / n));
        let epilogue = Epilogue { residual: Some(&residual), relu: false, mask: Some(&mut above) };
        conv.forward(&x, n, &mut sum, epilogue);
        pointwise::positive(&sum, &mut positive);
        assert!(
            above == positive && sum.iter().any(|v| *v < 0.0) | (size < 20),
            "{self:?} mask without relu"
        );

        let mut dx = vec![f32::NAN; x.len()];
        conv.input_grad(&dy, n, &mut dx);
        let plain = truth.input_grad(&dy, n);
        assert!(difference(&dx, &plain) < 5e-6, "{self:?} gradient {}", difference(&dx, &plain));

        let mut before = Bits::new(n, x.len() / n);
        pointwise::positive(&x, &mut before);
        let (factor, other) = (values(channels[0], 8), values(x.len(), 9));
        for (scale, mask, residual) in [(true, true, true), (true, false, false), (false, true, false)] {
            let (scale, mask) = (scale.then_some(&factor[..]), mask.then_some(&before));
            let residual = residual.then_some(&other[..]);
            let mut fused = vec![f32::NAN; x.len()];
            conv.input_grad_with(&dy, n, &mut fused, Backward { scale, mask, residual });
            let one = |(i, g): (usize, &f32)| {
                let g = g * scale.map_or(1.0, |s| s[i % channels[0]]);
                let g = if mask.is_none() || x[i] > 0.0 { g } else { 0.0 };
                g + residual.map_or(0.0, |r| r[i])
            };
            let plain: Vec<f32> = dx.iter().enumerate().map(one).collect();
            assert!(fused == plain, "{self:?} backward");
        }

        // <conv(x) - bias, dy> = <x, input_grad(dy)>
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let shifted: Vec<f32> = y.iter().enumerate().map(|(i, y)| y - bias[i % channels[1]]).collect();
        let (a, b) = (dot(&shifted, &dy), dot(&x, &dx));
        let scale = dot(&shifted, &shifted).sqrt() * dot(&dy, &dy).sqrt() + 1e-3;
        assert!((a - b).abs() <= 1e-5 * scale, "{self:?} adjoint {a} {b}");
    }
}

impl Case {
    /// bfloat16: exact if everything is rounded beforehand, otherwise within the rounding error.
    fn check_bf16(&self) {
        let Case { window, groups, channels, input, n } = self.clone();
        let Some(output) = window.output(input, false) else { return };
        let size = n * output[0] * output[1] * channels[1];
        let weight = values(channels[1] * channels[0] / groups * window.taps(), 1);
        let (x, dy) = (values(n * input[0] * input[1] * channels[0], 3), values(size, 4));
        let (bias, residual) = (values(channels[1], 2), values(size, 5));
        let winograd = |channels| Winograd::applies_to(&window, groups, channels);
        let both = |x: &[f32], weight: &[f32], dy: &[f32]| {
            let conv = Conv2d::new(window.clone(), groups, channels, input, weight, Some(&bias));
            let (mut y, mut dx) = (vec![f32::NAN; size], vec![f32::NAN; x.len()]);
            conv.forward_in(Precision::Bf16, x, n, &mut y, Epilogue::default());
            conv.input_grad_in(Precision::Bf16, dy, n, &mut dx, Backward::default());
            (y, dx, conv)
        };
        let truth = |x: &[f32], weight: &[f32], dy: &[f32], bias: Option<&[f32]>| {
            let conv = Conv { window: &window, groups, channels, input, weight };
            (conv.forward(x, n, bias), conv.input_grad(dy, n))
        };

        let (y, dx, conv) = both(&x, &weight, &dy);
        let (exact_y, exact_dx) = truth(&x, &weight, &dy, Some(&bias));
        let size_of = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        let (terms_y, terms_dx) = truth(&size_of(&x), &size_of(&weight), &size_of(&dy), None);
        let within = |a: &[f32], b: &[f32], terms: &[f32], winograd: bool, what: &str| {
            // two roundings by at most 1/256 each; Winograd's points are larger than the outputs
            let most = if winograd { 0.1 } else { 1.0 / 127.0 };
            let largest = terms.iter().fold(0f32, |m, t| m.max(*t));
            for ((a, b), t) in a.iter().zip(b).zip(terms) {
                let t = if winograd { largest } else { *t };
                assert!((a - b).abs() <= most * t + 1e-5, "{self:?} {what}: {a}, {b}, of {t}");
            }
        };
        within(&y, &exact_y, &terms_y, winograd(channels), "forward");
        within(&dx, &exact_dx, &terms_dx, winograd([channels[1], channels[0]]), "gradient");

        let mut mask = Bits::new(n, size / n);
        let mut z = vec![f32::NAN; size];
        let epilogue = Epilogue { residual: Some(&residual), relu: true, mask: Some(&mut mask) };
        conv.forward_in(Precision::Bf16, &x, n, &mut z, epilogue);
        let finished: Vec<f32> = y.iter().zip(&residual).map(|(y, r)| (y + r).max(0.0)).collect();
        assert!(difference(&z, &finished) < 1e-6, "{self:?} epilogue");
        for (i, z) in z.iter().enumerate() {
            assert_eq!(mask.get(i / (size / n), i % (size / n)), *z > 0.0, "{self:?} mask {i}");
        }

        let [x, weight, dy] = [&x, &weight, &dy].map(|v| v.iter().map(|v| rounded(*v)).collect::<Vec<f32>>());
        let (y, dx, _) = both(&x, &weight, &dy);
        let (exact_y, exact_dx) = truth(&x, &weight, &dy, Some(&bias));
        let same = |a: &[f32], b: &[f32], terms: &[f32], what: &str| {
            let largest = terms.iter().fold(0f32, |m, t| m.max(*t));
            let far = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(far <= 2e-6 * largest + 1e-6, "{self:?} {what}: {far}, of {largest}");
        };
        if !winograd(channels) {
            same(&y, &exact_y, &terms_y, "forward");
        }
        if !winograd([channels[1], channels[0]]) {
            same(&dx, &exact_dx, &terms_dx, "gradient");
        }
    }
}

fn rounded(x: f32) -> f32 {
    f32::from_bits(u32::from(bf16::round(x)) << 16)
}

fn pair(range: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = [usize; 2]> {
    [range.clone(), range]
}

fn cases() -> impl Strategy<Value = Case> {
    let window = (pair(1..=5), pair(1..=4), pair(1..=3), [0usize..4, 0usize..4, 0usize..4, 0usize..4])
        .prop_map(|(kernel, stride, dilation, pads)| Window { kernel, stride, dilation, pads });
    let channels = prop_oneof![
        (1usize..40, 1usize..40).prop_map(|(i, o)| (1, [i, o])),
        (1usize..5, 1usize..12, 1usize..12).prop_map(|(g, i, o)| (g, [g * i, g * o])),
        (1usize..40, 1usize..4).prop_map(|(g, m)| (g, [g, g * m])),
        (1usize..5, 1usize..5).prop_map(|(i, o)| (1, [i * 16, o * 8])),
    ];
    (window, channels, pair(1..=12), 1usize..5).prop_map(|(window, (groups, channels), input, n)| Case {
        window,
        groups,
        channels,
        input,
        n,
    })
}

/// Kernels that slide along rows, and similar ones that do not.
fn depthwise_cases() -> impl Strategy<Value = Case> {
    let window = (
        prop_oneof![Just(3usize), Just(5)],
        1usize..=3,
        1usize..=5,
        pair(1..=2),
        [0usize..6, 0usize..6, 0usize..6, 0usize..6],
    )
        .prop_map(|(width, stride, height, vertical, pads)| Window {
            kernel: [height, width],
            stride: [vertical[0], stride],
            dilation: [vertical[1], 1],
            pads,
        });
    let channels =
        prop_oneof![(8usize..40, 1usize..3), (1usize..5, Just(1usize)).prop_map(|(c, m)| (8 * c, m))];
    (window, channels, (1usize..=9, 1usize..=21), 1usize..4).prop_map(
        |(window, (groups, multiplier), (h, w), n)| Case {
            window,
            groups,
            channels: [groups, groups * multiplier],
            input: [h, w],
            n,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_convolution(case in cases()) {
        case.check();
    }

    #[test]
    fn any_depthwise_convolution(case in depthwise_cases()) {
        case.check();
    }

    #[test]
    fn any_convolution_in_bf16(case in cases()) {
        case.check_bf16();
    }
}

fn square(kernel: usize, stride: usize, pad: usize) -> Window {
    Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1, 1], pads: [pad; 4] }
}

#[test]
fn usual_convolutions() {
    for (window, groups, channels, side, n) in [
        (square(3, 1, 1), 1, [3, 64], 32, 2),
        (square(3, 1, 1), 1, [3, 16], 32, 2),
        (square(5, 1, 2), 1, [2, 24], 9, 3),
        (square(3, 2, 1), 1, [1, 16], 11, 3),
        (square(3, 1, 1), 1, [64, 64], 32, 1),
        (square(3, 2, 1), 1, [64, 128], 32, 1),
        (square(3, 1, 1), 1, [128, 128], 16, 2),
        (square(1, 2, 0), 1, [128, 256], 16, 2),
        (square(3, 1, 1), 1, [256, 256], 8, 3),
        (square(3, 1, 1), 1, [512, 512], 4, 7),
        (square(1, 1, 0), 1, [72, 24], 8, 3),
        (square(1, 1, 0), 1, [40, 120], 1, 13),
        (square(5, 2, 2), 72, [72, 72], 8, 2),
        (square(3, 1, 1), 16, [16, 16], 16, 2),
        (square(7, 2, 3), 1, [3, 64], 56, 1),
        (square(3, 1, 1), 4, [64, 64], 8, 2),
        (square(1, 1, 0), 1, [41, 67], 5, 3),
        (square(1, 1, 0), 2, [66, 130], 3, 2),
        (square(3, 1, 1), 1, [65, 67], 1, 1),
        (square(3, 2, 1), 3, [33, 51], 7, 2),
    ] {
        let case = Case { window, groups, channels, input: [side; 2], n };
        case.check();
        case.check_bf16();
    }
}

/// What training may rely on: the relative error of a convolution's result as a whole.
#[test]
fn the_error_of_bf16_is_known() {
    for (window, channels, side, n, least, most) in [
        (square(3, 1, 1), [64, 64], 16, 2, 0.005, 0.016),
        (square(3, 1, 1), [512, 512], 4, 2, 0.005, 0.016),
        (square(3, 2, 1), [64, 128], 16, 2, 0.001, 0.004),
        (square(1, 1, 0), [64, 128], 8, 2, 0.001, 0.004),
        (square(3, 1, 1), [65, 67], 8, 2, 0.001, 0.004),
    ] {
        let weight = values(channels[1] * channels[0] * window.taps(), 1);
        let conv = Conv2d::new(window.clone(), 1, channels, [side; 2], &weight, None);
        let x = values(n * side * side * channels[0], 2);
        let dy = values(n * conv.output()[0] * conv.output()[1] * channels[1], 3);
        let run = |precision| {
            let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            conv.forward_in(precision, &x, n, &mut y, Epilogue::default());
            conv.input_grad_in(precision, &dy, n, &mut dx, Backward::default());
            [y, dx]
        };
        for (a, b) in run(Precision::F32).iter().zip(&run(Precision::Bf16)) {
            let sum = |f: &dyn Fn(f32, f32) -> f32| {
                a.iter().zip(b).map(|(a, b)| f64::from(f(*a, *b)).powi(2)).sum::<f64>()
            };
            let error = (sum(&|a, b| a - b) / sum(&|a, _| a)).sqrt();
            assert!((least..most).contains(&error), "{window:?} {channels:?}: {error}");
        }
    }
}

#[test]
fn same_bytes_for_any_number_of_threads() {
    for (window, groups, channels, side, n) in [
        (square(3, 1, 1), 1, [24, 48], 17, 5),
        (square(3, 2, 1), 1, [32, 40], 9, 14),
        (square(3, 1, 1), 1, [256, 256], 4, 9),
        (square(5, 2, 2), 20, [20, 20], 19, 3),
        (square(5, 1, 2), 72, [72, 72], 64, 3),
        (square(3, 2, 1), 72, [72, 72], 64, 3),
        (square(1, 1, 0), 1, [96, 24], 7, 11),
    ] {
        let input = [side; 2];
        let conv = Conv2d::new(
            window.clone(),
            groups,
            channels,
            input,
            &values(channels[1] * channels[0] / groups * window.taps(), 1),
            None,
        );
        let x = values(n * side * side * channels[0], 2);
        let size = n * conv.output()[0] * conv.output()[1] * channels[1];
        let dy = values(size, 3);
        let run = |threads: usize, precision: Precision| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut dx) = (vec![0.0; size], vec![0.0; x.len()]);
                let mut mask = Bits::new(n, size / n);
                let epilogue = Epilogue { relu: true, mask: Some(&mut mask), ..Default::default() };
                conv.forward_in(precision, &x, n, &mut y, epilogue);
                conv.input_grad_in(precision, &dy, n, &mut dx, Backward::default());
                let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                (bits(y), bits(dx), mask)
            })
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let one = run(1, precision);
            assert!(run(2, precision) == one && run(3, precision) == one, "{window:?} {precision:?}");
        }
    }
}
