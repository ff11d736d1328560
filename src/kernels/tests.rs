//! Convolutions against the plain loops of `reference`.

use proptest::prelude::*;

use super::reference::{Conv, difference, values};
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
        let epilogue = Epilogue { residual: Some(&residual), relu: true, mask: Some(&mut mask), also: None };
        conv.forward(&x, n, &mut z, epilogue);
        let finished: Vec<f32> = y.iter().zip(&residual).map(|(y, r)| (y + r).max(0.0)).collect();
        assert!(difference(&z, &finished) < 1e-6, "{self:?} epilogue");
        for (i, z) in z.iter().enumerate() {
            assert_eq!(mask.get(i / (size / n), i % (size / n)), *z > 0.0, "{self:?} mask {i}");
        }

        let (scale, shift) = (values(channels[1], 6), values(channels[1], 7));
        let mut twice =
            (vec![f32::NAN; size], vec![f32::NAN; size], Bits::new(n, size / n), Bits::new(n, size / n));
        let also = Also { scale: &scale, shift: &shift, y: &mut twice.1, mask: Some(&mut twice.3) };
        let (residual, mask) = (Some(&residual[..]), Some(&mut twice.2));
        conv.forward(&x, n, &mut twice.0, Epilogue { residual, relu: false, mask, also: Some(also) });
        let mut second = (vec![0.0; size], Bits::new(n, size / n), Bits::new(n, size / n));
        pointwise::affine(&twice.0, &scale, &shift, true, &mut second.0, Some(&mut second.1));
        pointwise::positive(&twice.0, &mut second.2);
        assert!(twice.1 == second.0 && twice.3 == second.1 && twice.2 == second.2, "{self:?} second output");

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_convolution(case in cases()) {
        case.check();
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
    ] {
        Case { window, groups, channels, input: [side; 2], n }.check();
    }
}

#[test]
fn same_bytes_for_any_number_of_threads() {
    for (window, groups, channels, side, n) in [
        (square(3, 1, 1), 1, [24, 48], 17, 5),
        (square(3, 2, 1), 1, [32, 40], 9, 14),
        (square(3, 1, 1), 1, [256, 256], 4, 9),
        (square(5, 2, 2), 20, [20, 20], 19, 3),
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
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut dx) = (vec![0.0; size], vec![0.0; x.len()]);
                let mut mask = Bits::new(n, size / n);
                conv.forward(
                    &x,
                    n,
                    &mut y,
                    Epilogue { relu: true, mask: Some(&mut mask), ..Default::default() },
                );
                conv.input_grad(&dy, n, &mut dx);
                let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                (bits(y), bits(dx), mask)
            })
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one, "{window:?}");
    }
}
