//! Our convolution against candle's, where candle has one: equal padding, stride and dilation on both axes.

use candle_core::{Device, Tensor};
use polarizer::internals::kernels::{Conv2d, Epilogue, Window};
use proptest::prelude::*;

fn values(len: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forward_and_gradient(
        kernel in 1usize..6, stride in 1usize..4, dilation in 1usize..3, pad in 0usize..3,
        groups in prop_oneof![Just(1usize), 1usize..9], per_group in (1usize..20, 1usize..20),
        size in 1usize..12, n in 1usize..4,
    ) {
        let window = Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [dilation; 2], pads: [pad; 4] };
        let Some([oh, ow]) = window.output([size; 2], false) else { return Ok(()) };
        let (c, o) = (groups * per_group.0, groups * per_group.1);
        let weight = values(o * per_group.0 * kernel * kernel, 1);
        let (x, dy) = (values(n * size * size * c, 2), values(n * oh * ow * o, 3));
        let conv = Conv2d::new(window, groups, [c, o], [size; 2], &weight, None);
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        conv.forward(&x, n, &mut y, Epilogue::default());
        conv.input_grad(&dy, n, &mut dx);

        let cpu = Device::Cpu;
        let channels_first = |v: &[f32], side: [usize; 2], c: usize| {
            let t = Tensor::from_slice(v, (n, side[0], side[1], c), &cpu).unwrap();
            t.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
        };
        let channels_last = |t: &Tensor| -> Vec<f32> {
            t.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let weight = Tensor::from_slice(&weight, (o, per_group.0, kernel, kernel), &cpu).unwrap();
        let var = candle_core::Var::from_tensor(&channels_first(&x, [size; 2], c)).unwrap();
        let out = var.conv2d(&weight, pad, stride, dilation, groups).unwrap();
        let close = |a: &[f32], b: &[f32]| {
            let scale = b.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale)
        };
        prop_assert!(close(&y, &channels_last(&out)));
        let loss = (&out * channels_first(&dy, [oh, ow], o)).unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap();
        prop_assert!(close(&dx, &channels_last(gradient.get(&var).unwrap())));
    }
}
