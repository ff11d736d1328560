//! Element-wise and pixel passes against the plain formulas.

use proptest::prelude::*;

use super::pixels::{Descent, Pixels};
use super::reference::{difference, values};
use super::{Bits, pointwise as pw};

fn bits_of(y: &[f32], rows: usize) -> Bits {
    let mut b = Bits::new(rows, y.len() / rows);
    pw::positive(y, &mut b);
    b
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masks_and_channels(rows in 1usize..4, pixels in prop_oneof![1usize..40, 2000usize..2100], c in 1usize..40, relu: bool) {
        let len = rows * pixels * c;
        let (x, dy) = (values(len, 1), values(len, 3));
        let (scale, shift) = (values(c, 4), values(c, 5));
        let cut = |v: f32| if relu { v.max(0.0) } else { v };

        let mut y = vec![f32::NAN; len];
        let mut mask = Bits::new(rows, len / rows);
        pw::affine(&x, &scale, &shift, relu, &mut y, Some(&mut mask));
        let plain: Vec<f32> = x.iter().enumerate().map(|(i, x)| cut(x * scale[i % c] + shift[i % c])).collect();
        prop_assert_eq!(&y, &plain);
        for (i, v) in plain.iter().enumerate() {
            prop_assert_eq!(mask.get(i / (len / rows), i % (len / rows)), *v > 0.0);
        }
        let mut z = x.clone();
        let mut other = Bits::new(rows, len / rows);
        pw::affine_in_place(&mut z, &scale, &shift, relu, Some(&mut other));
        prop_assert!(z == y && other == mask);
        pw::affine(&x, &scale, &shift, relu, &mut z, None);
        prop_assert_eq!(&z, &y);

        let bit = |i: usize| mask.get(i / (len / rows), i % (len / rows));
        let plain: Vec<f32> = (0..len).map(|i| if bit(i) { dy[i] * scale[i % c] } else { 0.0 }).collect();
        let mut dx = vec![f32::NAN; len];
        pw::affine_grad(&dy, &scale, Some(&mask), &mut dx);
        prop_assert_eq!(&dx, &plain);
        dx.copy_from_slice(&dy);
        pw::affine_grad_in_place(&mut dx, &scale, Some(&mask));
        prop_assert_eq!(&dx, &plain);
        pw::affine_grad(&dy, &scale, None, &mut dx);
        prop_assert!(dx.iter().enumerate().all(|(i, v)| *v == dy[i] * scale[i % c]));

        pw::masked(&dy, &mask, &mut dx);
        let plain: Vec<f32> = (0..len).map(|i| if bit(i) { dy[i] } else { 0.0 }).collect();
        prop_assert_eq!(&dx, &plain);
        dx.copy_from_slice(&dy);
        pw::masked_in_place(&mut dx, &mask);
        prop_assert_eq!(&dx, &plain);

        pw::relu(&x, &mut y, Some(&mut mask));
        let plain: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
        prop_assert_eq!(&y, &plain);
        prop_assert!(mask == bits_of(&plain, rows));
        y.copy_from_slice(&x);
        pw::relu_in_place(&mut y, None);
        prop_assert_eq!(&y, &plain);
    }

    #[test]
    fn steps_in_pixel_space(n in 1usize..4, c in 1usize..4, pixels in 1usize..80, radius in 0.01f32..3.0) {
        let (mean, std): (Vec<f32>, Vec<f32>) =
            (values(c, 1), values(c, 2).iter().map(|v| v.abs() + 0.1).collect());
        let kernel = Pixels::new(pixels, &mean, &std);
        let len = n * c * pixels;
        let x: Vec<f32> = values(len, 3).iter().map(|v| (v * 0.7 + 0.5).clamp(0.0, 1.0)).collect();
        let normalised = |v: f32, i: usize| (v - mean[i % c]) / std[i % c];
        let mut y = vec![f32::NAN; len];
        kernel.normalise(&x, &mut y);
        prop_assert!((0..len).all(|i| y[i] == normalised(x[i], i)));

        let mut delta = values(len, 4);
        let mut grad = values(len, 5);
        grad[0] = 0.0;
        let mut plain = delta.clone();
        for i in 0..len {
            let sign = if grad[i] > 0.0 { 1.0 } else if grad[i] < 0.0 { -1.0 } else { 0.0 };
            plain[i] -= if (0.0..=1.0).contains(&(x[i] + delta[i])) { 0.1 * sign } else { 0.0 };
        }
        for d in plain.chunks_mut(c * pixels) {
            let norm = d.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
            if norm > radius {
                d.iter_mut().for_each(|v| *v *= radius / norm);
            }
        }
        kernel.descend(&x, &grad, Descent { step: 0.1, radius }, &mut delta, &mut y);
        prop_assert!(difference(&delta, &plain) < 1e-6);
        let moved: Vec<f32> = (0..len).map(|i| normalised((x[i] + delta[i]).clamp(0.0, 1.0), i)).collect();
        prop_assert!(difference(&y, &moved) < 1e-6);
    }
}

#[test]
fn sigmoid() {
    for x in (-2000..=2000).map(|i| i as f32 / 200.0) {
        let s = 1.0 / (1.0 + (-f64::from(x)).exp());
        assert!((f64::from(pw::sigmoid_of(x)) - s).abs() < 2e-7, "{x}");
    }
}

#[test]
fn exponential() {
    for i in -110_000..100_000 {
        let x = i as f32 / 1000.0;
        let (e, truth) = (f64::from(pw::exp(x)), f64::from(x).exp());
        if truth > f64::from(f32::MAX) {
            assert!(e.is_infinite());
        } else if truth < f64::from(f32::MIN_POSITIVE) {
            assert!((e - truth).abs() < 2e-45, "{x} {e} {truth}");
        } else {
            assert!((e - truth).abs() <= truth * 2e-7, "{x} {e} {truth}");
        }
    }
    assert_eq!(pw::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(pw::exp(f32::INFINITY), f32::INFINITY);
    assert!(pw::exp(f32::NAN).is_nan());
}

#[test]
fn not_a_number_stays() {
    let x = [f32::NAN, -1.0, 1.0];
    let mut y = [0.0; 3];
    let mut mask = Bits::new(1, 3);
    pw::relu(&x, &mut y, Some(&mut mask));
    assert!(y[0].is_nan() && y[1] == 0.0 && y[2] == 1.0 && !mask.get(0, 0) && mask.get(0, 2));
    pw::masked(&[f32::NAN, f32::INFINITY, 2.0], &mask, &mut y);
    assert_eq!(y, [0.0, 0.0, 2.0]);
}
