//! Every operator's gradient against central differences, and that what is kept can be gathered image by image. The
//! points are away from kinks: what happens there is in `tests/ties.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use polarizer::internals::kernels::Precision;
use polarizer::internals::ops::{
    self, Array, ConvCache, Exec, Input, Output, Placement, Run, Saved, Setting,
};
use polarizer::onnx::node::{Attribute, AttributeValue, Node};
use polarizer::onnx::tensor::DataType;

/// An input of the operator under test.
#[derive(Clone)]
enum In {
    /// Differentiated: shape and values.
    X(Vec<usize>, Vec<f32>),
    F(Vec<usize>, Vec<f32>),
    I(Vec<usize>, Vec<i64>),
    Absent,
}

/// Numbers in (-1, 1) that look random.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn x(shape: &[usize]) -> In {
    let count = shape.iter().product();
    In::X(shape.to_vec(), noise(count, 7 + count as u64))
}

/// Like [`x`], but every number at least 0.4 from 0 and different from every other by at least 0.05.
fn apart(shape: &[usize]) -> In {
    let count: usize = shape.iter().product();
    let mut order: Vec<usize> = (0..count).collect();
    let keys = noise(count, 99);
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    let value = |&i: &usize| if i % 2 == 0 { 0.4 + i as f32 * 0.05 } else { -0.4 - i as f32 * 0.05 };
    In::X(shape.to_vec(), order.iter().map(value).collect())
}

fn f(shape: &[usize]) -> In {
    let count = shape.iter().product();
    In::F(shape.to_vec(), noise(count, 1234 + count as u64))
}

fn i(values: &[i64]) -> In {
    In::I(vec![values.len()], values.to_vec())
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), value: AttributeValue::Int(value) }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.into(), value: AttributeValue::Ints(values.to_vec()) }
}

fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.into(), value: AttributeValue::Float(value) }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), value: AttributeValue::String(value.as_bytes().to_vec()) }
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

/// The node lowered: what becomes of its output `which`.
fn lower(case: &Case, inputs: &[In]) -> polarizer::Result<Output> {
    let Case { op, opset, attributes, outputs, which } = *case;
    let names = (0..inputs.len()).map(|i| format!("i{i}")).collect();
    let node = Node {
        name: "under_test".into(),
        op_type: op.into(),
        domain: String::new(),
        inputs: names,
        outputs: (0..outputs).map(|i| format!("y{i}")).collect(),
        attributes: attributes.to_vec(),
    };
    let convs = ConvCache::default();
    let setting = Setting { opset, batch: None, convs: &convs, precision: Precision::F32, stored: &|_| None };
    let given = inputs
        .iter()
        .map(|i| match i {
            In::X(shape, _) => Input::value(shape.clone(), true, DataType::Float, ops::of_images(shape)),
            In::F(shape, v) => Input::Constant(ops::array::canonical(&tensor(shape, v)).unwrap()),
            In::I(shape, v) => {
                Input::Constant(Tensor::from_slice(v, shape.as_slice(), &Device::Cpu).unwrap())
            }
            In::Absent => Input::Absent,
        })
        .collect();
    let mut lowered = ops::find("", op).unwrap().lower(&node, 0, given, &setting)?;
    Ok(lowered.remove(which))
}

fn flat(a: &Array) -> Vec<f32> {
    a.tensor().flatten_all().unwrap().to_vec1().unwrap()
}

/// Where each finite difference is taken, and how far it may be off, relative to the largest slope.
const STEP: f32 = 1.0 / 64.0;
const TOLERANCE: f64 = 3e-3;

/// A node, and the output of it that is looked at.
struct Case<'a> {
    op: &'a str,
    opset: i64,
    attributes: &'a [Attribute],
    outputs: usize,
    which: usize,
}

fn check(op: &str, opset: i64, attributes: &[Attribute], inputs: &[In]) {
    check_output(&Case { op, opset, attributes, outputs: 1, which: 0 }, inputs);
}

fn check_output(case: &Case, inputs: &[In]) {
    let Case { op, opset, attributes, which, .. } = *case;
    let about = || {
        let shapes: Vec<_> = inputs
            .iter()
            .map(|i| match i {
                In::X(s, _) => format!("x{s:?}"),
                In::F(s, _) => format!("f{s:?}"),
                In::I(s, v) => format!("i{s:?}={v:?}"),
                In::Absent => "-".to_string(),
            })
            .collect();
        format!("{op} {opset} output {which} {attributes:?} {}", shapes.join(" "))
    };
    let (shape, per_image, exec) = match lower(case, inputs) {
        Ok(Output::Run(Run { shape, per_image, exec, .. })) => (shape, per_image, exec),
        Ok(Output::Constant(_)) => panic!("{}: a constant", about()),
        Err(e) => panic!("{}: {e}", about()),
    };
    let values: Vec<(Vec<usize>, Vec<f32>)> = inputs
        .iter()
        .filter_map(|i| if let In::X(s, v) = i { Some((s.clone(), v.clone())) } else { None })
        .collect();
    note_placement(op, exec.as_ref(), &values[0].0);
    let arrays = |values: &[(Vec<usize>, Vec<f32>)]| -> Vec<Array> {
        values.iter().map(|(s, v)| Array::from_tensor(&tensor(s, v)).unwrap()).collect()
    };
    let mut kept = Saved::default();
    let y = exec.forward(arrays(&values), Some(&mut kept)).unwrap_or_else(|e| panic!("{}: {e}", about()));
    assert_eq!(y.dims(), shape, "{}", about());
    let plain = exec.forward(arrays(&values), None).unwrap();
    assert_eq!(flat(&plain), flat(&y), "{}: keeping changes the output", about());

    let weights = noise(y.len(), 5);
    let dy = Array::from_tensor(&tensor(&shape, &weights)).unwrap();
    let all = vec![true; values.len()];
    let grads = exec.vjp(&kept, dy.clone(), &all).unwrap_or_else(|e| panic!("{}: {e}", about()));
    assert_eq!(grads.len(), values.len(), "{}", about());
    assert!((0..values.len()).all(|i| exec.differentiable(i)), "{}", about());
    let loss = |values: &[(Vec<usize>, Vec<f32>)]| -> f64 {
        let y = flat(&exec.forward(arrays(values), None).unwrap());
        y.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (which, grad) in grads.iter().enumerate() {
        let grad = grad.as_ref().unwrap();
        assert_eq!(grad.dims(), values[which].0, "{}: gradient {which}", about());
        let grad = flat(grad);
        let largest = grad.iter().fold(0.1f32, |m, g| m.max(g.abs()));
        for at in 0..grad.len() {
            let moved = |by: f32| {
                let mut moved = values.clone();
                moved[which].1[at] += by;
                loss(&moved)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * f64::from(STEP));
            let off = (slope - f64::from(grad[at])).abs() / f64::from(largest);
            assert!(
                off < TOLERANCE,
                "{}: gradient {which} at {at} is {}, expected {slope}",
                about(),
                grad[at]
            );
        }
    }
    // what is not wanted is not given, and the rest does not change
    if values.len() > 1 {
        for which in 0..values.len() {
            let mut want = vec![false; values.len()];
            want[which] = true;
            let some = exec.vjp(&kept, dy.clone(), &want).unwrap();
            assert_eq!(flat(some[which].as_ref().unwrap()), flat(grads[which].as_ref().unwrap()));
        }
    }
    if per_image {
        gathered(&about(), case, inputs, &kept, &dy, &grads);
    }
}

/// Which of the cases of each operator have kernels on a GPU.
static KERNELS: Mutex<BTreeMap<String, BTreeSet<bool>>> = Mutex::new(BTreeMap::new());

/// Notes where it runs when the values are on a GPU. `first`: the shape of its first input.
fn note_placement(op: &str, exec: &dyn Exec, first: &[usize]) {
    let kernel = exec.on_gpu(first).is_some();
    KERNELS.lock().unwrap().entry(op.to_owned()).or_default().insert(kernel);
    let declared = ops::find("", op).unwrap().on_gpu;
    assert_eq!(exec.runs_anywhere(), declared == Placement::Candle, "{op} is declared {declared:?}");
}

/// Where they run is what the operators declare.
fn placements_are_as_declared() {
    for (op, kernels) in KERNELS.lock().unwrap().iter() {
        let found: Vec<bool> = kernels.iter().copied().collect();
        let expected: &[bool] = match ops::find("", op).unwrap().on_gpu {
            Placement::Kernel => &[true],
            Placement::Partly => &[false, true],
            Placement::Candle | Placement::Processor | Placement::Nowhere => &[false],
        };
        assert_eq!(found, expected, "{op}: whether there are kernels on a GPU");
    }
}

/// The images 2, 0 of a batch, run as a batch of two with what was kept for all, have the same gradients.
fn gathered(about: &str, case: &Case, inputs: &[In], kept: &Saved, dy: &Array, grads: &[Option<Array>]) {
    let Some(n) = dy.dims().first().copied().filter(|n| *n >= 2) else { return };
    let rows = [n - 1, 0];
    let fewer: Vec<In> = inputs
        .iter()
        .map(|i| match i {
            In::X(s, v) => {
                let mut s = s.clone();
                assert_eq!(s[0], n, "{about}: per image, but an input has other rows");
                s[0] = 2;
                let row = v.len() / n;
                In::X(s, rows.iter().flat_map(|r| &v[r * row..(r + 1) * row]).copied().collect())
            }
            other => other.clone(),
        })
        .collect();
    // a Reshape to fixed numbers does not fit a smaller batch
    let Ok(Output::Run(Run { exec: small, .. })) = lower(case, &fewer) else { return };
    let select = kept.select(n, &rows).unwrap_or_else(|| panic!("{about}: nothing to select"));
    let parts = [kept.select(n, &[n - 1]).unwrap(), kept.select(n, &[0]).unwrap()];
    let joined = Saved::gather(&parts.each_ref(), &[1, 1], &[(0, 0), (1, 0)]).unwrap();
    for kept in [select, joined] {
        let part = small.vjp(&kept, dy.select(&rows).unwrap(), &vec![true; grads.len()]).unwrap();
        for (part, whole) in part.iter().zip(grads) {
            let whole = whole.as_ref().unwrap().select(&rows).unwrap();
            assert_eq!(flat(part.as_ref().unwrap()), flat(&whole), "{about}: gathered rows");
        }
    }
}

/// The operators whose gradients are checked here, and those that have none.
const CHECKED: &[(&str, fn())] = &[
    ("Conv", conv),
    ("ConvTranspose", conv_transpose),
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("GlobalAveragePool", || each("GlobalAveragePool", 7, &[&[2, 3, 4, 5], &[3, 1, 1, 1], &[2, 3, 5]])),
    ("GlobalMaxPool", || {
        check("GlobalMaxPool", 7, &[], &[apart(&[2, 3, 4, 5])]);
        check("GlobalMaxPool", 7, &[], &[apart(&[2, 3, 5])]);
    }),
    ("BatchNormalization", batch_normalization),
    ("LayerNormalization", layer_normalization),
    ("RMSNormalization", rms_normalization),
    ("GroupNormalization", group_normalization),
    ("InstanceNormalization", instance_normalization),
    ("LRN", lrn),
    ("Relu", || check("Relu", 14, &[], &[apart(&[3, 2, 3, 4])])),
    ("LeakyRelu", || check("LeakyRelu", 16, &[float("alpha", 0.3)], &[apart(&[3, 7])])),
    ("Elu", || check("Elu", 7, &[float("alpha", 1.5)], &[apart(&[3, 7])])),
    ("Clip", clip),
    ("Sigmoid", || each("Sigmoid", 13, &[&[3, 2, 3, 4], &[5], &[]])),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish", || each("HardSwish", 14, &[&[3, 2, 3, 4], &[2, 9]])),
    ("Swish", || check("Swish", 24, &[float("alpha", 1.3)], &[x(&[3, 2, 3, 4])])),
    ("Gelu", gelu),
    ("Tanh", || each("Tanh", 13, &[&[3, 2, 3, 4]])),
    ("Erf", || each("Erf", 13, &[&[3, 2, 3, 4]])),
    ("Softplus", || each("Softplus", 7, &[&[3, 2, 3, 4]])),
    ("Exp", || each("Exp", 13, &[&[3, 2, 3, 4]])),
    ("Sqrt", || check("Sqrt", 13, &[], &[In::X(vec![2, 4], (1..9).map(|v| v as f32 * 0.7).collect())])),
    ("Neg", || each("Neg", 13, &[&[3, 4], &[2, 2, 2, 2]])),
    ("Abs", || check("Abs", 13, &[], &[apart(&[3, 2, 3, 4])])),
    ("Reciprocal", || check("Reciprocal", 13, &[], &[away(&[3, 2, 3, 4])])),
    ("Log", || check("Log", 13, &[], &[In::X(vec![2, 4], (1..9).map(|v| v as f32 * 0.7).collect())])),
    ("Sin", || each("Sin", 7, &[&[3, 2, 3, 4]])),
    ("Cos", || each("Cos", 7, &[&[3, 2, 3, 4]])),
    ("Softsign", || each("Softsign", 22, &[&[3, 2, 3, 4]])),
    ("Mish", || each("Mish", 18, &[&[3, 2, 3, 4]])),
    ("Selu", || check("Selu", 7, &[float("alpha", 1.5), float("gamma", 0.8)], &[apart(&[3, 7])])),
    ("Celu", || check("Celu", 12, &[float("alpha", 1.5)], &[apart(&[3, 7])])),
    ("ThresholdedRelu", || check("ThresholdedRelu", 10, &[float("alpha", 0.62)], &[apart(&[3, 7])])),
    ("Floor", || flat_steps("Floor", 13, &[x(&[3, 7])])),
    ("Ceil", || flat_steps("Ceil", 13, &[x(&[3, 7])])),
    ("Round", || flat_steps("Round", 11, &[x(&[3, 7])])),
    ("Sign", || flat_steps("Sign", 13, &[x(&[3, 7])])),
    ("IsNaN", || flat_steps("IsNaN", 13, &[x(&[3, 7])])),
    ("IsInf", || flat_steps("IsInf", 10, &[x(&[3, 7])])),
    // of booleans, which have no gradient
    ("Not", || {}),
    ("Softmax", || softmax("Softmax")),
    ("LogSoftmax", || softmax("LogSoftmax")),
    ("Add", || arithmetic("Add")),
    ("Sub", || arithmetic("Sub")),
    ("Mul", || arithmetic("Mul")),
    ("Div", || arithmetic("Div")),
    ("Pow", pow),
    ("Sum", || several("Sum")),
    ("Mean", || several("Mean")),
    ("Max", || several("Max")),
    ("Min", || several("Min")),
    ("PRelu", p_relu),
    ("Mod", modulo),
    ("Where", where_),
    ("Equal", || flat_steps("Equal", 13, &[x(&[3, 7]), f(&[7])])),
    ("Less", || flat_steps("Less", 13, &[x(&[3, 7]), f(&[3, 1])])),
    ("LessOrEqual", || flat_steps("LessOrEqual", 16, &[x(&[3, 7]), x(&[3, 7])])),
    ("Greater", || flat_steps("Greater", 13, &[f(&[3, 7]), x(&[3, 7])])),
    ("GreaterOrEqual", || flat_steps("GreaterOrEqual", 16, &[x(&[3, 7]), x(&[1])])),
    ("And", || {}),
    ("Or", || {}),
    ("Xor", || {}),
    ("Gemm", gemm),
    ("MatMul", mat_mul),
    ("Einsum", einsum),
    ("Attention", attention),
    ("ReduceMean", || reduce("ReduceMean", 18)),
    ("ReduceSum", || reduce("ReduceSum", 13)),
    ("ReduceMax", || aggregate("ReduceMax", &apart(&[2, 3, 2, 4]))),
    ("ReduceMin", || aggregate("ReduceMin", &apart(&[2, 3, 2, 4]))),
    ("ReduceProd", reduce_prod),
    ("ReduceL1", || aggregate("ReduceL1", &apart(&[2, 3, 2, 4]))),
    ("ReduceL2", || aggregate("ReduceL2", &apart(&[2, 3, 2, 4]))),
    ("ReduceSumSquare", || aggregate("ReduceSumSquare", &x(&[2, 3, 2, 4]))),
    ("ReduceLogSum", || aggregate("ReduceLogSum", &positive(&[2, 3, 2, 4]))),
    ("ReduceLogSumExp", || aggregate("ReduceLogSumExp", &x(&[2, 3, 2, 4]))),
    ("CumSum", cum_sum),
    ("Flatten", flatten),
    ("Reshape", reshape),
    ("Transpose", transpose),
    ("Squeeze", squeeze),
    ("Unsqueeze", unsqueeze),
    ("Identity", || each("Identity", 16, &[&[2, 3], &[2, 3, 2, 2]])),
    ("Dropout", dropout),
    ("Cast", || check("Cast", 13, &[int("to", 1)], &[x(&[2, 3])])),
    ("Expand", expand),
    ("Concat", concat),
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("GatherND", gather_nd),
    ("ScatterElements", scatter_elements),
    ("ScatterND", scatter_nd),
    ("Tile", tile),
    ("Trilu", trilu),
    ("DepthToSpace", blocks),
    ("SpaceToDepth", blocks),
    ("ArgMax", || flat_steps("ArgMax", 13, &[x(&[3, 2, 2, 4])])),
    ("ArgMin", || flat_steps("ArgMin", 13, &[x(&[3, 7])])),
    ("TopK", top_k),
    ("OneHot", one_hot),
    ("CastLike", cast_like),
    ("Slice", slice),
    ("Split", split),
    ("Pad", pad),
    ("QuantizeLinear", straight_through),
    // reads integers, which nothing here makes
    ("DequantizeLinear", || {}),
    ("Resize", resize),
    ("Upsample", upsample),
    // nothing that depends on the image comes out of these
    ("Shape", || {}),
    ("Constant", || {}),
    ("ConstantOfShape", || {}),
    ("Range", || {}),
    ("Size", || {}),
    ("NonZero", || {}),
    // the branch takes its place
    ("If", || {}),
];

#[test]
fn every_operator_agrees_with_finite_differences() {
    let there: BTreeSet<&str> = ops::OPERATORS.iter().map(|o| o.name).collect();
    let checked: BTreeSet<&str> = CHECKED.iter().map(|c| c.0).collect();
    assert_eq!(there, checked);
    // all that fail are told of, each with its own message above
    let fails = |(_, check): &&(&str, fn())| std::panic::catch_unwind(check).is_err();
    let failed: Vec<&str> = CHECKED.iter().filter(fails).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "{failed:?}");
    placements_are_as_declared();
}

fn each(op: &str, opset: i64, shapes: &[&[usize]]) {
    shapes.iter().for_each(|s| check(op, opset, &[], &[x(s)]));
}

fn conv() {
    let window = |k: &[i64], s: &[i64], d: &[i64], p: &[i64]| {
        vec![ints("kernel_shape", k), ints("strides", s), ints("dilations", d), ints("pads", p)]
    };
    check("Conv", 11, &[], &[x(&[3, 2, 4, 5]), f(&[3, 2, 1, 1])]);
    check(
        "Conv",
        11,
        &window(&[3, 3], &[1, 1], &[1, 1], &[1, 1, 1, 1]),
        &[x(&[3, 2, 4, 5]), f(&[3, 2, 3, 3]), f(&[3])],
    );
    check(
        "Conv",
        11,
        &window(&[3, 2], &[2, 1], &[1, 2], &[0, 2, 1, 1]),
        &[x(&[2, 2, 5, 6]), f(&[4, 2, 3, 2]), f(&[4])],
    );
    check("Conv", 11, &window(&[1, 1], &[2, 2], &[1, 1], &[0; 4]), &[x(&[2, 3, 5, 4]), f(&[2, 3, 1, 1])]);
    let mut grouped = window(&[3, 3], &[2, 2], &[1, 1], &[1; 4]);
    grouped.push(int("group", 2));
    check("Conv", 11, &grouped, &[x(&[2, 4, 5, 5]), f(&[6, 2, 3, 3]), f(&[6])]);
    let mut depthwise = window(&[5, 5], &[1, 1], &[1, 1], &[2; 4]);
    depthwise.push(int("group", 4));
    check("Conv", 11, &depthwise, &[x(&[2, 4, 5, 5]), f(&[4, 1, 5, 5])]);
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        let attributes = [text("auto_pad", auto), ints("strides", &[2, 1]), ints("kernel_shape", &[3, 2])];
        check("Conv", 11, &attributes, &[x(&[2, 2, 5, 6]), f(&[3, 2, 3, 2])]);
    }
    conv_of_lines();
}

/// Over lines, as in the attention of ECA.
fn conv_of_lines() {
    let window = [ints("kernel_shape", &[3]), ints("pads", &[1, 1]), ints("strides", &[2])];
    check("Conv", 11, &window, &[x(&[3, 2, 7]), f(&[4, 2, 3]), f(&[4])]);
    let depthwise = [ints("dilations", &[2]), text("auto_pad", "SAME_UPPER"), int("group", 2)];
    check("Conv", 11, &depthwise, &[x(&[3, 2, 7]), f(&[2, 1, 3])]);
}

fn conv_transpose() {
    let sizes = [int("group", 1), ints("strides", &[2, 2])];
    check("ConvTranspose", 11, &sizes, &[x(&[2, 3, 2, 3]), f(&[3, 2, 2, 2]), f(&[2])]);
    let window = [
        ints("kernel_shape", &[3, 2]),
        ints("strides", &[2, 3]),
        ints("dilations", &[1, 2]),
        ints("pads", &[1, 0, 0, 2]),
        ints("output_padding", &[1, 2]),
    ];
    check("ConvTranspose", 11, &window, &[x(&[2, 3, 3, 2]), f(&[3, 4, 3, 2])]);
    let grouped = [int("group", 2), text("auto_pad", "SAME_LOWER"), ints("strides", &[2, 1])];
    check("ConvTranspose", 11, &grouped, &[x(&[2, 4, 3, 4]), f(&[4, 3, 3, 3]), f(&[6])]);
    let line = [ints("strides", &[2]), ints("output_padding", &[1]), ints("pads", &[1, 0])];
    check("ConvTranspose", 11, &line, &[x(&[2, 3, 4]), f(&[3, 2, 3])]);
    let shaped = [ints("output_shape", &[5, 7]), ints("strides", &[2, 2])];
    check("ConvTranspose", 11, &shaped, &[x(&[2, 2, 2, 3]), f(&[2, 2, 3, 3])]);
}

fn einsum() {
    let check = |equation: &str, inputs: &[In]| check("Einsum", 12, &[text("equation", equation)], inputs);
    check("bij, bjk -> bik", &[x(&[3, 2, 4]), x(&[3, 4, 2])]);
    check("bhid,bhjd->bhij", &[x(&[2, 2, 3, 4]), x(&[2, 2, 2, 4])]);
    check("nhwpqc->nchpwq", &[x(&[2, 2, 2, 2, 2, 3])]);
    check("bij->b", &[x(&[3, 2, 4])]);
    check("bij,jk", &[x(&[2, 3, 4]), f(&[4, 2])]);
    check("oj,bij->boi", &[f(&[2, 4]), x(&[3, 3, 4])]);
    check("...ij,...jk->...ik", &[x(&[2, 1, 2, 3]), x(&[2, 2, 3, 2])]);
    check("bij,jk,bk->bi", &[x(&[2, 3, 4]), x(&[4, 2]), x(&[2, 2])]);
    // summed over in one operand alone
    check("bij,bk->bk", &[x(&[2, 3, 4]), x(&[2, 2])]);
    check("bc,c->bc", &[x(&[2, 3]), f(&[3])]);
}

fn attention() {
    let (q, k) = (x(&[2, 2, 3, 4]), x(&[2, 2, 5, 4]));
    let v = In::X(vec![2, 2, 5, 3], noise(60, 91));
    check("Attention", 23, &[], &[q.clone(), k.clone(), v.clone()]);
    check("Attention", 23, &[int("is_causal", 1), float("scale", 0.7)], &[q.clone(), k.clone(), v.clone()]);
    check("Attention", 24, &[float("softcap", 0.9)], &[q.clone(), k, v.clone(), f(&[3, 5])]);
    let mask = In::I(vec![1, 1, 3, 5], vec![1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0]);
    check("Attention", 23, &[], &[q, f(&[2, 2, 5, 4]), v, mask]);
    // heads put together, and two of queries for one of keys and values
    let heads = [int("q_num_heads", 4), int("kv_num_heads", 2)];
    let v = In::X(vec![2, 5, 6], noise(60, 91));
    check("Attention", 23, &heads, &[x(&[2, 3, 8]), x(&[2, 5, 4]), v]);
}

fn resize() {
    let image = || x(&[2, 2, 4, 5]);
    let to = |h: i64, w: i64| [image(), In::Absent, In::Absent, i(&[2, 2, h, w])];
    for mode in ["nearest", "linear", "cubic"] {
        for coordinates in ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"] {
            let attributes = [text("mode", mode), text("coordinate_transformation_mode", coordinates)];
            check("Resize", 13, &attributes, &to(7, 10));
            check("Resize", 19, &attributes, &to(2, 3));
        }
        let small = [text("mode", mode), int("antialias", 1), int("exclude_outside", 1)];
        check("Resize", 18, &small, &to(2, 3));
        let scales = In::F(vec![4], vec![1.0, 1.0, 2.0, 1.5]);
        let symmetric = [text("mode", mode), text("coordinate_transformation_mode", "half_pixel_symmetric")];
        check("Resize", 19, &symmetric, &[image(), In::Absent, scales]);
    }
    let axes = [ints("axes", &[1]), text("mode", "linear")];
    check("Resize", 18, &axes, &[x(&[2, 4, 3]), In::Absent, In::Absent, i(&[6])]);
    let tokens =
        [text("mode", "linear"), text("keep_aspect_ratio_policy", "not_larger"), ints("axes", &[2, 3])];
    check("Resize", 18, &tokens, &[image(), In::Absent, In::Absent, i(&[3, 4])]);
}

fn upsample() {
    let scales = In::F(vec![4], vec![1.0, 1.0, 2.0, 3.0]);
    for mode in ["nearest", "linear"] {
        check("Upsample", 9, &[text("mode", mode)], &[x(&[2, 2, 3, 2]), scales.clone()]);
        let given =
            Attribute { name: "scales".into(), value: AttributeValue::Floats(vec![1.0, 1.0, 2.0, 2.0]) };
        check("Upsample", 7, &[text("mode", mode), given], &[x(&[2, 2, 3, 2])]);
    }
}

fn pools(op: &str) -> Vec<Vec<Attribute>> {
    let mut all = vec![
        vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), ints("pads", &[1; 4])],
        vec![ints("kernel_shape", &[3, 2]), ints("pads", &[0, 1, 2, 0])],
        vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)],
        vec![ints("kernel_shape", &[2, 3]), text("auto_pad", "SAME_LOWER"), ints("strides", &[2, 2])],
        vec![ints("kernel_shape", &[2, 2]), ints("dilations", &[2, 3])],
    ];
    if op == "AveragePool" {
        let mut counted = all.clone();
        counted.iter_mut().for_each(|a| a.push(int("count_include_pad", 1)));
        all.extend(counted);
    }
    all
}

fn line_window() -> [Attribute; 3] {
    [ints("kernel_shape", &[3]), ints("strides", &[2]), ints("pads", &[1, 1])]
}

fn max_pool() {
    pools("MaxPool").iter().for_each(|a| check("MaxPool", 12, a, &[apart(&[2, 2, 5, 6])]));
    check("MaxPool", 12, &line_window(), &[apart(&[2, 3, 7])]);
}

fn average_pool() {
    pools("AveragePool").iter().for_each(|a| check("AveragePool", 19, a, &[x(&[2, 2, 5, 6])]));
    check("AveragePool", 19, &line_window(), &[x(&[2, 3, 7])]);
}

fn batch_normalization() {
    let positive = In::F(vec![3], vec![0.5, 1.5, 0.01]);
    for shape in [&[2, 3, 2, 4][..], &[3, 3], &[2, 3, 5], &[2, 3, 2, 2, 2]] {
        check(
            "BatchNormalization",
            15,
            &[float("epsilon", 1e-3)],
            &[x(shape), f(&[3]), f(&[3]), f(&[3]), positive.clone()],
        );
    }
}

fn layer_normalization() {
    let shapes: [(&[usize], i64); 7] = [
        (&[3, 5], -1),
        (&[2, 3, 4], -1),
        (&[2, 3, 4], 1),
        (&[2, 3, 2, 4], 1),
        (&[2, 3, 2, 4], 2),
        (&[2, 3, 2, 4], 3),
        (&[2, 3, 2, 4], 0),
    ];
    for (shape, axis) in shapes {
        let row = &shape[axis.rem_euclid(shape.len() as i64) as usize..];
        let attributes = [int("axis", axis), float("epsilon", 1e-2)];
        check("LayerNormalization", 17, &attributes, &[x(shape), f(row), f(row)]);
        check("LayerNormalization", 17, &attributes, &[x(shape), f(&[1])]);
    }
}

fn rms_normalization() {
    for (shape, axis) in [(&[3, 5][..], -1i64), (&[2, 3, 4], 1), (&[2, 3, 2, 4], -1), (&[2, 3, 2, 4], 1)] {
        let row = &shape[axis.rem_euclid(shape.len() as i64) as usize..];
        let attributes = [int("axis", axis), float("epsilon", 1e-2)];
        check("RMSNormalization", 23, &attributes, &[x(shape), f(row)]);
        check("RMSNormalization", 23, &attributes, &[x(shape), f(&[1])]);
    }
}

fn group_normalization() {
    for shape in [&[2, 4, 2, 3][..], &[2, 4, 5], &[3, 4, 2, 2, 2]] {
        let attributes = [int("num_groups", 2), float("epsilon", 1e-2)];
        check("GroupNormalization", 18, &attributes, &[x(shape), f(&[2]), f(&[2])]);
        check("GroupNormalization", 21, &attributes, &[x(shape), f(&[4]), f(&[4])]);
    }
}

fn instance_normalization() {
    for shape in [&[2, 3, 2, 4][..], &[2, 3, 5], &[3, 3, 2, 2, 2]] {
        check("InstanceNormalization", 22, &[float("epsilon", 1e-2)], &[x(shape), f(&[3]), f(&[3])]);
    }
}

fn lrn() {
    for size in [1, 3, 4] {
        let attributes = [int("size", size), float("alpha", 0.7), float("beta", 0.6), float("bias", 1.2)];
        for shape in [&[2, 5, 2, 3][..], &[2, 5, 3], &[3, 6]] {
            check("LRN", 13, &attributes, &[x(shape)]);
        }
    }
}

fn several(op: &str) {
    // no two numbers that meet are closer than the step of the differences
    let moved = |shape: &[usize], by: f32| match apart(shape) {
        In::X(shape, v) => In::X(shape, v.iter().map(|v| v + by / 60.0).collect()),
        other => other,
    };
    let constant = |shape: &[usize]| match moved(shape, 2.0) {
        In::X(shape, v) => In::F(shape, v),
        other => other,
    };
    check(op, 13, &[], &[apart(&[3, 2, 2, 3])]);
    check(op, 13, &[], &[apart(&[3, 2, 2, 3]), moved(&[3, 2, 2, 3], 1.0)]);
    check(op, 13, &[], &[apart(&[3, 2, 2, 3]), constant(&[2, 1, 1]), In::F(vec![], vec![0.425])]);
    check(op, 13, &[], &[moved(&[3, 2, 2, 3], 2.0), apart(&[3, 2, 1, 1]), moved(&[2, 3], 1.0)]);
    check(op, 13, &[], &[constant(&[1, 4]), apart(&[3, 1]), moved(&[3, 4], 1.0)]);
}

fn p_relu() {
    check("PRelu", 16, &[], &[apart(&[3, 2, 2, 3]), f(&[2, 1, 1])]);
    check("PRelu", 16, &[], &[apart(&[3, 7]), f(&[1])]);
    check("PRelu", 16, &[], &[apart(&[3, 7]), x(&[3, 7])]);
    check("PRelu", 16, &[], &[apart(&[3, 7]), x(&[7])]);
}

fn modulo() {
    let dividend = In::X(vec![2, 4], vec![5.3, -5.3, 0.4, -0.4, 2.25, 7.1, -8.8, 3.3]);
    check("Mod", 13, &[int("fmod", 1)], &[dividend.clone(), In::F(vec![], vec![1.7])]);
    check("Mod", 28, &[], &[dividend.clone(), In::X(vec![4], vec![1.7, -2.1, 3.0, -1.3])]);
    check("Mod", 13, &[int("fmod", 1)], &[dividend, In::X(vec![4], vec![1.7, -2.1, 3.0, 1.3])]);
}

fn where_() {
    let condition = In::I(vec![2, 1, 3], vec![1, 0, 1, 0, 0, 1]);
    check("Where", 16, &[], &[condition.clone(), x(&[3, 2, 2, 3]), f(&[])]);
    check("Where", 16, &[], &[condition.clone(), f(&[2, 1, 1]), x(&[3, 2, 2, 3])]);
    check("Where", 16, &[], &[condition, x(&[3, 2, 2, 3]), x(&[3, 2, 1, 1])]);
}

fn away(shape: &[usize]) -> In {
    let values = noise(shape.iter().product(), 3).iter().map(|v| v + v.signum() * 1.5).collect();
    In::X(shape.to_vec(), values)
}

fn positive(shape: &[usize]) -> In {
    In::X(shape.to_vec(), noise(shape.iter().product(), 3).iter().map(|v| v.abs() + 0.5).collect())
}

/// Reductions whose axes are an attribute up to opset 17.
fn aggregate(op: &str, image: &In) {
    for axes in [&[2, 3][..], &[-1, -2], &[1], &[0], &[1, 3], &[0, 1, 2, 3]] {
        for keep in [0, 1] {
            let keep = int("keepdims", keep);
            check(op, 13, &[ints("axes", axes), keep.clone()], std::slice::from_ref(image));
            check(op, 18, &[keep], &[image.clone(), i(axes)]);
        }
    }
    check(op, 18, &[], std::slice::from_ref(image));
}

fn reduce_prod() {
    aggregate("ReduceProd", &In::X(vec![2, 3, 2, 4], positive_noise(48)));
    check("ReduceProd", 13, &[ints("axes", &[1])], &[In::X(vec![2, 3], vec![0.0, 1.5, -2.0, 0.5, 0.0, 3.0])]);
}

/// Near 1, so that long products stay in range.
fn positive_noise(count: usize) -> Vec<f32> {
    noise(count, 3).iter().map(|v| 1.0 + 0.2 * v).collect()
}

/// No gradient passes: none is computed, and the graph is told so.
fn flat_steps(op: &str, opset: i64, inputs: &[In]) {
    let case = Case { op, opset, attributes: &[], outputs: 1, which: 0 };
    passes_nothing(&case, inputs);
}

fn passes_nothing(case: &Case, inputs: &[In]) {
    let Ok(Output::Run(Run { shape, exec, .. })) = lower(case, inputs) else { panic!("{}", case.op) };
    let values: Vec<Array> = inputs
        .iter()
        .filter_map(|i| match i {
            In::X(s, v) => Some(Array::from_tensor(&tensor(s, v)).unwrap()),
            _ => None,
        })
        .collect();
    let first = values[0].dims().to_vec();
    note_placement(case.op, exec.as_ref(), &first);
    let count = values.len();
    let mut kept = Saved::default();
    let y = exec.forward(values, Some(&mut kept)).unwrap();
    assert_eq!(y.dims(), shape, "{}", case.op);
    assert!((0..count).all(|i| !exec.differentiable(i)), "{}", case.op);
    let grads = exec.vjp(&kept, y, &vec![true; count]).unwrap();
    assert!(grads.len() == count && grads.iter().all(Option::is_none), "{}", case.op);
}

fn clip() {
    let bound = |v: f32| In::F(vec![], vec![v]);
    check("Clip", 6 + 1, &[float("min", -0.53), float("max", 0.77)], &[apart(&[3, 2, 2, 3])]);
    check("Clip", 13, &[], &[apart(&[3, 7]), bound(-0.53), bound(0.77)]);
    check("Clip", 13, &[], &[apart(&[3, 7]), In::Absent, bound(0.77)]);
    check("Clip", 13, &[], &[apart(&[3, 7])]);
}

fn hard_sigmoid() {
    let wide = In::X(vec![3, 4], (0..12).map(|v| v as f32 - 5.6).collect());
    check("HardSigmoid", 7, &[], std::slice::from_ref(&wide));
    check("HardSigmoid", 22, &[float("alpha", -1.0 / 6.0), float("beta", 0.5)], std::slice::from_ref(&wide));
    check("HardSwish", 14, &[], &[wide]);
}

fn gelu() {
    check("Gelu", 20, &[], &[x(&[3, 2, 3, 4])]);
    check("Gelu", 20, &[text("approximate", "tanh")], &[x(&[3, 2, 3, 4])]);
}

fn softmax(op: &str) {
    for (opset, axis) in [(11, 1), (11, 2), (11, -1), (13, 1), (13, -1), (13, 2)] {
        check(op, opset, &[int("axis", axis)], &[x(&[3, 2, 4])]);
        check(op, opset, &[int("axis", axis)], &[x(&[2, 2, 3, 2])]);
    }
    check(op, 11, &[], &[x(&[3, 5])]);
    check(op, 13, &[], &[x(&[3, 5])]);
    check(op, 13, &[int("axis", 0)], &[x(&[3, 5])]);
}

fn arithmetic(op: &str) {
    let far = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        In::X(shape.to_vec(), noise(count, 3).iter().map(|v| v + v.signum() * 1.5).collect())
    };
    let constant = |i: In| if let In::X(s, v) = i { In::F(s, v) } else { i };
    let pairs: &[(&[usize], &[usize])] = &[
        (&[3, 2, 2, 3], &[3, 2, 2, 3]),
        (&[3, 2, 2, 3], &[3, 2, 1, 1]),
        (&[3, 2, 1, 1], &[3, 2, 2, 3]),
        (&[3, 2, 2, 3], &[1, 2, 1, 1]),
        (&[3, 2, 2, 3], &[2, 1, 1]),
        (&[3, 2, 2, 3], &[3]),
        (&[3, 2, 2, 3], &[2, 3]),
        (&[3, 2, 2, 3], &[]),
        (&[3, 4], &[4]),
        (&[3, 4], &[1, 4]),
        (&[3, 4], &[3, 1]),
        (&[4], &[3, 4]),
        (&[3, 1, 5], &[1, 2, 1]),
        (&[3, 2, 1, 1], &[3, 2, 1, 1]),
    ];
    for (a, b) in pairs {
        check(op, 14, &[], &[far(a), far(b)]);
        check(op, 14, &[], &[far(a), constant(far(b))]);
        check(op, 14, &[], &[constant(far(a)), far(b)]);
    }
}

fn pow() {
    let positive = In::X(vec![2, 4], (1..9).map(|v| v as f32 * 0.4).collect());
    check("Pow", 13, &[], &[positive.clone(), In::F(vec![], vec![2.5])]);
    check("Pow", 13, &[], &[x(&[2, 5]), In::I(vec![], vec![2])]);
    check("Pow", 13, &[], &[positive, In::F(vec![], vec![0.0])]);
}

fn gemm() {
    for (ta, tb) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let a: &[usize] = if ta == 1 { &[4, 3] } else { &[3, 4] };
        let b: &[usize] = if tb == 1 { &[2, 4] } else { &[4, 2] };
        let attributes = [int("transA", ta), int("transB", tb), float("alpha", 0.7), float("beta", 1.3)];
        for c in [vec![], vec![2], vec![3, 2], vec![3, 1], vec![1]] {
            check("Gemm", 13, &attributes, &[x(a), f(b), f(&c)]);
            check("Gemm", 13, &attributes, &[x(a), x(b), x(&c)]);
            check("Gemm", 13, &attributes, &[f(a), x(b), f(&c)]);
        }
        check("Gemm", 13, &attributes, &[x(a), f(b)]);
    }
}

fn mat_mul() {
    let pairs: &[(&[usize], &[usize])] = &[
        (&[3, 4], &[4, 2]),
        (&[3, 2, 4], &[4, 2]),
        (&[3, 2, 4], &[3, 4, 2]),
        (&[3, 1, 2, 4], &[2, 4, 2]),
        (&[4], &[4, 2]),
        (&[3, 4], &[4]),
        (&[4], &[4]),
        (&[2, 3, 2, 4], &[2, 3, 4, 2]),
    ];
    for (a, b) in pairs {
        check("MatMul", 13, &[], &[x(a), f(b)]);
        check("MatMul", 13, &[], &[f(a), x(b)]);
        check("MatMul", 13, &[], &[x(a), x(b)]);
    }
}

fn reduce(op: &str, by_input: i64) {
    for axes in [&[2, 3][..], &[-1, -2], &[1], &[0], &[1, 2, 3], &[0, 1, 2, 3]] {
        for keep in [0, 1] {
            let keep = int("keepdims", keep);
            check(op, by_input - 1, &[ints("axes", axes), keep.clone()], &[x(&[2, 3, 2, 4])]);
            check(op, by_input, &[keep], &[x(&[2, 3, 2, 4]), i(axes)]);
        }
    }
    check(op, by_input, &[], &[x(&[2, 3])]);
    check(op, by_input, &[int("noop_with_empty_axes", 1)], &[x(&[2, 3]), i(&[])]);
}

fn cum_sum() {
    for (exclusive, reverse) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let attributes = [int("exclusive", exclusive), int("reverse", reverse)];
        check("CumSum", 14, &attributes, &[x(&[2, 3, 2, 4]), In::I(vec![], vec![1])]);
        check("CumSum", 11, &attributes, &[x(&[3, 4]), In::I(vec![1], vec![-1])]);
    }
}

fn flatten() {
    for axis in [0, 1, 2, 4, -1] {
        check("Flatten", 13, &[int("axis", axis)], &[x(&[2, 3, 2, 4])]);
    }
    check("Flatten", 7, &[], &[x(&[3, 5, 1, 1])]);
}

fn reshape() {
    check("Reshape", 13, &[], &[x(&[2, 3, 2, 4]), i(&[0, -1])]);
    check("Reshape", 13, &[], &[x(&[2, 3, 2, 4]), i(&[-1, 6, 4])]);
    check("Reshape", 13, &[], &[x(&[2, 12]), i(&[2, 3, 2, 2])]);
    check("Reshape", 14, &[int("allowzero", 1)], &[x(&[2, 12]), i(&[4, 6])]);
}

fn transpose() {
    check("Transpose", 13, &[], &[x(&[2, 3, 4])]);
    check("Transpose", 13, &[ints("perm", &[0, 2, 3, 1])], &[x(&[2, 3, 2, 4])]);
    check("Transpose", 13, &[ints("perm", &[2, 0, 1])], &[x(&[2, 3, 4])]);
}

fn squeeze() {
    check("Squeeze", 11, &[ints("axes", &[2, 3])], &[x(&[2, 3, 1, 1])]);
    check("Squeeze", 13, &[], &[x(&[2, 3, 1, 1]), i(&[-1])]);
    check("Squeeze", 13, &[], &[x(&[2, 1, 3, 1])]);
}

fn unsqueeze() {
    check("Unsqueeze", 11, &[ints("axes", &[2, 3])], &[x(&[2, 3])]);
    check("Unsqueeze", 13, &[], &[x(&[2, 3]), i(&[-1, 0])]);
}

fn dropout() {
    check("Dropout", 10, &[float("ratio", 0.4)], &[x(&[2, 3])]);
    check("Dropout", 13, &[], &[x(&[2, 3]), In::F(vec![], vec![0.4]), In::I(vec![], vec![0])]);
}

fn expand() {
    check("Expand", 13, &[], &[x(&[2, 3, 1, 1]), i(&[1, 1, 2, 4])]);
    check("Expand", 13, &[], &[x(&[3, 1]), i(&[2, 1, 4])]);
}

fn concat() {
    check("Concat", 13, &[int("axis", 1)], &[x(&[2, 3, 2, 2]), x(&[2, 1, 2, 2]), f(&[2, 2, 2, 2])]);
    check("Concat", 13, &[int("axis", -1)], &[x(&[2, 3]), x(&[2, 4])]);
    check("Concat", 13, &[int("axis", 0)], &[x(&[2, 3]), x(&[1, 3])]);
    check("Concat", 13, &[int("axis", 2)], &[x(&[2, 3, 2, 2]), x(&[2, 3, 1, 2])]);
}

fn gather() {
    check("Gather", 13, &[int("axis", 1)], &[x(&[2, 3, 2, 4]), i(&[2, 0, -1])]);
    check("Gather", 13, &[int("axis", 1)], &[x(&[2, 3]), In::I(vec![], vec![1])]);
    check("Gather", 13, &[int("axis", 2)], &[x(&[2, 3, 4]), In::I(vec![2, 2], vec![1, 1, 0, -2])]);
    check("Gather", 13, &[], &[x(&[3, 4]), i(&[2, 2])]);
}

fn gather_elements() {
    let indices = |shape: &[usize], values: &[i64]| In::I(shape.to_vec(), values.to_vec());
    check("GatherElements", 13, &[int("axis", 1)], &[x(&[2, 3]), indices(&[2, 2], &[2, 2, 0, -1])]);
    let twice = indices(&[2, 2, 1, 2], &[1, 0, 1, -1, 0, 0, 1, 1]);
    check("GatherElements", 13, &[int("axis", 1)], &[x(&[2, 2, 3, 2]), twice]);
}

fn gather_nd() {
    check("GatherND", 13, &[], &[x(&[2, 3, 4]), In::I(vec![3, 2], vec![0, 1, 1, -1, 0, 1])]);
    check("GatherND", 13, &[int("batch_dims", 1)], &[x(&[2, 3, 2, 2]), In::I(vec![2, 1], vec![2, 0])]);
    check("GatherND", 13, &[], &[x(&[2, 3, 2, 2]), In::I(vec![2, 1], vec![1, 1])]);
}

fn scatter_elements() {
    let indices = || In::I(vec![2, 2, 2, 1], vec![0, 1, 1, 0, 1, 1, -1, 0]);
    for reduction in ["none", "add"] {
        let attributes = [int("axis", 3), text("reduction", reduction)];
        check("ScatterElements", 18, &attributes, &[x(&[2, 2, 2, 3]), indices(), x(&[2, 2, 2, 1])]);
        check("ScatterElements", 18, &attributes, &[x(&[2, 2, 2, 3]), indices(), f(&[2, 2, 2, 1])]);
        check("ScatterElements", 18, &attributes, &[f(&[2, 2, 2, 3]), indices(), x(&[2, 2, 2, 1])]);
    }
}

fn scatter_nd() {
    let indices = || In::I(vec![3, 1], vec![3, -3, 3]);
    for reduction in ["none", "add"] {
        let attributes = [text("reduction", reduction)];
        check("ScatterND", 18, &attributes, &[x(&[4, 3]), indices(), x(&[3, 3])]);
        check("ScatterND", 18, &attributes, &[f(&[4, 3, 2, 2]), indices(), x(&[3, 3, 2, 2])]);
    }
}

fn tile() {
    check("Tile", 13, &[], &[x(&[2, 3, 2, 2]), i(&[1, 2, 3, 1])]);
    check("Tile", 13, &[], &[x(&[2, 3]), i(&[2, 2])]);
}

fn trilu() {
    check("Trilu", 14, &[], &[x(&[2, 3, 3, 4])]);
    check("Trilu", 14, &[int("upper", 0)], &[x(&[2, 3, 4]), In::I(vec![], vec![-1])]);
    check("Trilu", 14, &[int("upper", 0)], &[x(&[3, 4]), In::I(vec![], vec![1])]);
}

fn blocks() {
    for mode in ["DCR", "CRD"] {
        let attributes = [int("blocksize", 2), text("mode", mode)];
        check("DepthToSpace", 13, &attributes, &[x(&[2, 8, 2, 3])]);
    }
    check("SpaceToDepth", 13, &[int("blocksize", 2)], &[x(&[2, 2, 4, 6])]);
    check("SpaceToDepth", 28, &[int("blocksize", 2), text("mode", "CRD")], &[x(&[2, 2, 4, 6])]);
}

fn top_k() {
    for (shape, axis) in [(&[3, 7][..], -1), (&[2, 4, 2, 3], 1), (&[4, 3], 0)] {
        for largest in [0, 1] {
            let attributes = [int("axis", axis), int("largest", largest)];
            let inputs = [apart(shape), i(&[3])];
            let case = |which| Case { op: "TopK", opset: 11, attributes: &attributes, outputs: 2, which };
            check_output(&case(0), &inputs);
            passes_nothing(&case(1), &inputs);
        }
    }
}

fn one_hot() {
    let inputs = [x(&[3, 2]), In::F(vec![], vec![4.0]), f(&[2])];
    flat_steps("OneHot", 11, &inputs);
}

fn cast_like() {
    check("CastLike", 19, &[], &[x(&[2, 3]), f(&[1])]);
}

fn slice() {
    check(
        "Slice",
        9,
        &[ints("starts", &[1, 0]), ints("ends", &[3, -1]), ints("axes", &[2, 3])],
        &[x(&[2, 3, 4, 5])],
    );
    check("Slice", 13, &[], &[x(&[2, 6]), i(&[5]), i(&[i64::MIN]), i(&[1]), i(&[-2])]);
    check("Slice", 13, &[], &[x(&[2, 3, 4, 5]), i(&[0, 1]), i(&[i64::MAX, -1]), i(&[1, 3]), i(&[2, 3])]);
    check("Slice", 13, &[], &[x(&[4, 3]), i(&[1]), i(&[3])]);
}

/// Every output by itself: each has a gradient of its own.
fn split() {
    let check = |opset: i64, attributes: &[Attribute], inputs: &[In], outputs: usize| {
        for which in 0..outputs {
            check_output(&Case { op: "Split", opset, attributes, outputs, which }, inputs);
        }
    };
    check(7, &[int("axis", 1)], &[x(&[2, 4, 2, 3])], 2);
    check(11, &[int("axis", -3), ints("split", &[1, 3])], &[x(&[2, 4, 2, 3])], 2);
    check(13, &[int("axis", 1)], &[x(&[2, 6, 3]), i(&[1, 2, 3])], 3);
    check(13, &[], &[x(&[4, 3])], 2);
    check(18, &[int("axis", 2), int("num_outputs", 3)], &[x(&[2, 3, 7])], 3);
    check(18, &[int("axis", 3), int("num_outputs", 1)], &[x(&[2, 3, 2, 4])], 1);
}

/// The gradient of a rounding to steps is that of no rounding, inside the range of the integers.
fn straight_through() {
    let case = Case { op: "QuantizeLinear", opset: 13, attributes: &[], outputs: 1, which: 0 };
    let inputs = [x(&[2, 3]), In::F(vec![], vec![0.25]), In::Absent];
    let Ok(Output::Run(Run { exec, .. })) = lower(&case, &inputs) else { panic!("not lowered") };
    note_placement("QuantizeLinear", exec.as_ref(), &[2, 3]);
    let array = |values: &[f32]| Array::from_tensor(&tensor(&[2, 3], values)).unwrap();
    let mut kept = Saved::default();
    // unsigned integers of 8 bits
    let y = exec.forward(vec![array(&[-9.0, 0.3, 0.2, 0.7, 1.4, 90.0])], Some(&mut kept)).unwrap();
    assert_eq!(flat(&y), [0.0, 1.0, 1.0, 3.0, 6.0, 255.0]);
    let dy = [1.0, -2.0, 3.0, 4.0, -5.0, 6.0];
    let dx = exec.vjp(&kept, array(&dy), &[true]).unwrap().remove(0).unwrap();
    assert_eq!(flat(&dx), [0.0, -8.0, 12.0, 16.0, -20.0, 0.0]);
}

fn pad() {
    let zero = In::F(vec![], vec![0.5]);
    check("Pad", 10, &[ints("pads", &[0, 0, 1, 2, 0, 0, 0, 1])], &[x(&[2, 2, 3, 3])]);
    check("Pad", 13, &[], &[x(&[2, 2, 3, 3]), i(&[0, 1, 1, 2, 0, 0, 0, 1]), zero]);
    check("Pad", 13, &[], &[x(&[2, 5]), i(&[0, -1, 0, -2])]);
    check("Pad", 13, &[text("mode", "reflect")], &[x(&[2, 4]), i(&[0, 2, 0, 3])]);
    check("Pad", 13, &[text("mode", "edge")], &[x(&[2, 3, 4]), i(&[0, 2, 1, 0, 1, 2])]);
    check("Pad", 19, &[text("mode", "wrap")], &[x(&[2, 4]), i(&[0, 2, 0, 3])]);
    check("Pad", 18, &[], &[x(&[2, 4, 3]), i(&[1, 2]), In::Absent, i(&[-1])]);
}
