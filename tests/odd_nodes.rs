//! Nodes that no exporter writes: any operator with any attributes, inputs and shapes, extreme numbers among them. They
//! are lowered and run, or refused with an error about the node; nothing panics, and nothing asks for more memory than
//! the limits allow.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::{Device, Tensor};
use polarizer::Error;
use polarizer::internals::kernels::Precision;
use polarizer::internals::ops::{
    self, Array, ConvCache, Input, Kind, OPERATORS, Output, Run, Saved, Setting,
};
use polarizer::onnx::node::{Attribute, AttributeValue, Node, Subgraph};
use polarizer::onnx::tensor::{self, Data, DataType};

/// A generator whose stream is the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) ^ (self.0 >> 51)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    fn int(&mut self) -> i64 {
        match self.below(10) {
            0 => self.pick(&[i64::MIN, i64::MAX, i64::MIN + 1, 1 << 31, 1 << 40, -(1 << 31), 1_000_003]),
            1..=3 => self.pick(&[-1, 0, -2, -3]),
            _ => self.below(4) as i64,
        }
    }
    fn ints(&mut self) -> Vec<i64> {
        let n = self.pick(&[0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 8]);
        (0..n).map(|_| self.int()).collect()
    }
    fn float(&mut self) -> f32 {
        match self.below(8) {
            0 => self.pick(&[
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                0.0,
                -0.0,
                f32::MAX,
                f32::MIN_POSITIVE,
            ]),
            _ => self.below(200) as f32 * 0.05 - 5.0,
        }
    }
    fn shape(&mut self) -> Vec<usize> {
        let rank = self.pick(&[0, 1, 1, 2, 2, 3, 4, 4, 4, 4, 4, 5]);
        (0..rank).map(|_| self.pick(&[1, 1, 2, 3, 4, 5, 6, 0])).collect()
    }
    fn tensor(&mut self) -> tensor::Tensor {
        let dims = self.shape();
        let count = dims.iter().product();
        let data = match self.below(3) {
            0 => Data::Int64((0..count).map(|_| self.int()).collect()),
            1 => Data::Bool((0..count).map(|_| self.below(2) == 1).collect()),
            _ => Data::Float((0..count).map(|_| self.float()).collect()),
        };
        tensor::Tensor { name: String::new(), dims, data }
    }
}

fn attribute(dice: &mut Dice, declared: &ops::Attribute) -> Attribute {
    let value = match declared.kind {
        Kind::Int => AttributeValue::Int(dice.int()),
        Kind::Float => AttributeValue::Float(dice.float()),
        Kind::Ints => AttributeValue::Ints(dice.ints()),
        Kind::Floats => AttributeValue::Floats((0..dice.below(4)).map(|_| dice.float()).collect()),
        Kind::Tensor => AttributeValue::Tensor(dice.tensor()),
        Kind::Graph => AttributeValue::Graph(Box::new(Subgraph {
            nodes: vec![],
            initializers: vec![],
            inputs: vec![],
            outputs: vec![],
        })),
        Kind::Text => {
            let text = dice.pick(&[
                "NOTSET",
                "VALID",
                "SAME_UPPER",
                "SAME_LOWER",
                "none",
                "tanh",
                "edge",
                "reflect",
                "wrap",
                "constant",
                "nearest",
                "linear",
                "cubic",
                "align_corners",
                "half_pixel_symmetric",
                "add",
                "CRD",
                "ij->ji",
                "...i,...i->...",
                "ij,jk->ik",
                "\u{7}",
            ]);
            AttributeValue::String(text.as_bytes().to_vec())
        }
    };
    Attribute { name: declared.name.to_string(), value }
}

/// A value that depends on the image, mostly of floats.
fn value(dice: &mut Dice, shape: &[usize], per_image: bool) -> Input {
    let elem = match dice.below(8) {
        0 => dice.pick(&[DataType::Float16, DataType::Uint8, DataType::Int64, DataType::Bool]),
        _ => DataType::Float,
    };
    Input::value(shape.to_vec(), per_image, elem, ops::of_images(shape))
}

/// An input that may even fit: shapes are often those of the first input, or made from it.
fn input(dice: &mut Dice, first: &[usize], operator: &str, place: usize) -> Input {
    let floats = |dice: &mut Dice, shape: &[usize]| {
        let v: Vec<f32> = (0..shape.iter().product()).map(|_| dice.below(40) as f32 * 0.1 - 2.0).collect();
        Input::Constant(ops::array::canonical(&Tensor::from_vec(v, shape, &Device::Cpu).unwrap()).unwrap())
    };
    if place == 0 {
        return match dice.below(6) {
            0..=3 if operator == "Range" => {
                Input::Constant(Tensor::from_vec(vec![dice.int()], (), &Device::Cpu).unwrap())
            }
            0 => floats(dice, first),
            1 => {
                let v: Vec<i64> = (0..first.iter().product()).map(|_| dice.int()).collect();
                Input::Constant(Tensor::from_vec(v, first, &Device::Cpu).unwrap())
            }
            _ => value(dice, first, true),
        };
    }
    let channels = first.get(1).copied().unwrap_or(1);
    let integers =
        |v: Vec<i64>, shape: &[usize]| Input::Constant(Tensor::from_vec(v, shape, &Device::Cpu).unwrap());
    match (operator, dice.below(6)) {
        ("ConvTranspose", 0..=3) if place == 1 => {
            let shape = [channels, 1 + dice.below(3), 1 + dice.below(3), 1 + dice.below(3)];
            floats(dice, &shape)
        }
        ("InstanceNormalization" | "GroupNormalization", 0..=4) => {
            let count = dice.pick(&[channels, channels, 1, 2]);
            floats(dice, &[count])
        }
        ("Attention", 0..=4) if place < 3 => floats(dice, first),
        ("ScatterElements", 0..=4) if place == 1 => {
            integers((0..first.iter().product()).map(|_| dice.below(2) as i64).collect(), first)
        }
        ("ScatterElements", 0..=4) => floats(dice, first),
        ("ScatterND", 0..=4) if place == 1 => integers(vec![0, 0], &[2, 1]),
        ("ScatterND", 0..=4) => {
            let mut shape = first.to_vec();
            shape.iter_mut().take(1).for_each(|d| *d = 2);
            floats(dice, &shape)
        }
        ("Resize", 0..=4) if place == 2 => {
            let scales = first.iter().map(|_| dice.pick(&[0.5, 1.0, 1.0, 1.5, 2.0])).collect();
            Input::Constant(Tensor::from_vec::<_, f32>(scales, first.len(), &Device::Cpu).unwrap())
        }
        ("Resize", _) => Input::Absent,
        ("CumSum", 0..=4) => integers(vec![dice.below(3) as i64], &[]),
        ("Range", 0..=4) => integers(vec![dice.int()], &[]),
        ("Conv", 0..=3) if place == 1 => {
            let shape =
                [dice.pick(&[1, 2, 4]), dice.pick(&[channels, 1]), 1 + dice.below(3), 1 + dice.below(3)];
            floats(dice, &shape)
        }
        ("BatchNormalization" | "Conv", 0..=4) => floats(dice, &[channels]),
        (_, 0) => Input::Absent,
        (_, 1) => {
            let per_image = dice.below(2) == 0;
            value(dice, first, per_image)
        }
        (_, 2) => {
            let shape = dice.shape();
            floats(dice, &shape)
        }
        _ => {
            let v = dice.ints();
            let scalar = v.len() == 1 && dice.below(2) == 0;
            let shape: Vec<usize> = if scalar { vec![] } else { vec![v.len()] };
            Input::Constant(Tensor::from_vec(v, shape, &Device::Cpu).unwrap())
        }
    }
}

fn array(dice: &mut Dice, shape: &[usize]) -> Array {
    let v: Vec<f32> = (0..shape.iter().product()).map(|_| dice.float()).collect();
    Array::from_tensor(&Tensor::from_vec(v, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Whether the node was lowered to something that ran.
fn try_one(dice: &mut Dice, operator: &ops::Operator) -> Result<bool, String> {
    let opset = 7 + dice.below(22) as i64;
    let mut attributes = Vec::new();
    for declared in operator.attributes.iter().filter(|a| a.opsets.contains(&opset)) {
        let required = declared.default == ops::Preset::Required;
        if required && dice.below(20) > 0 || dice.below(3) == 0 {
            attributes.push(attribute(dice, declared));
        }
    }
    let first = dice.shape();
    let arity = operator.inputs.iter().rev().find(|a| a.since <= opset);
    let (least, most) = arity.map_or((1, 1), |a| (a.least, a.most.min(a.least + 3)));
    let count = if dice.below(30) == 0 { dice.below(6) } else { least + dice.below(most - least + 1) };
    let inputs: Vec<Input> = (0..count).map(|place| input(dice, &first, operator.name, place)).collect();
    let made = operator.outputs.iter().rev().find(|a| a.since <= opset).map_or(1, |a| a.most.min(4));
    let outputs = 1 + dice.below(made);
    let node = Node {
        name: "odd".to_string(),
        op_type: operator.name.to_string(),
        domain: String::new(),
        inputs: (0..count).map(|i| format!("i{i}")).collect(),
        outputs: (0..outputs).map(|i| format!("y{i}")).collect(),
        attributes,
    };
    let convs = ConvCache::default();
    let batch = if dice.below(4) == 0 { Some((1, first.first().copied().unwrap_or(1))) } else { None };
    let setting = Setting { opset, batch, convs: &convs, precision: Precision::F32, stored: &|_| None };
    let about = format!("{node:?} {inputs:?}");
    let shapes: Vec<Vec<usize>> = inputs
        .iter()
        .filter_map(|i| if let Input::Value { shape, .. } = i { Some(shape.clone()) } else { None })
        .collect();
    let lowered = catch_unwind(AssertUnwindSafe(|| operator.lower(&node, 0, inputs, &setting)));
    let lowered = lowered.map_err(|_| format!("panics while lowered: {about}"))?;
    let outputs = match lowered {
        Ok(outputs) => outputs,
        Err(Error::Input { subject, .. }) if subject.contains("\"odd\"") => return Ok(false),
        Err(e) => return Err(format!("{e}: {about}")),
    };
    for output in outputs {
        if let Output::Run(run) = output {
            try_run(dice, run, &shapes, &about)?;
        }
    }
    Ok(true)
}

/// Runs one output and its gradient for inputs of these shapes.
fn try_run(dice: &mut Dice, run: Run, shapes: &[Vec<usize>], about: &str) -> Result<(), String> {
    let Run { shape, exec, .. } = run;
    if shapes.iter().any(|s| s.contains(&0)) || shape.iter().product::<usize>() > 1 << 20 {
        return Ok(());
    }
    let x: Vec<Array> = shapes.iter().map(|s| array(dice, s)).collect();
    let dy = array(dice, &shape);
    let want = vec![true; x.len()];
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut kept = Saved::default();
        let y = exec.forward(x, Some(&mut kept))?;
        if y.dims() != shape {
            return Err(Error::internal(format!("shape {:?}, announced {shape:?}", y.dims())));
        }
        exec.vjp(&kept, dy, &want)
    }));
    match ran {
        Err(_) => Err(format!("panics while run: {about}")),
        Ok(Err(e)) => Err(format!("{e}: {about}")),
        Ok(Ok(grads)) => {
            let fits = |i: usize| match &grads[i] {
                Some(grad) => grad.dims() == shapes[i],
                None => !exec.differentiable(i),
            };
            let fits = grads.len() == shapes.len() && (0..grads.len()).all(fits);
            if fits { Ok(()) } else { Err(format!("gradients of other shapes: {about}")) }
        }
    }
}

#[test]
fn odd_nodes_are_run_or_refused() {
    let mut dice = Dice(20_261_122);
    let mut faults = Vec::new();
    for operator in OPERATORS {
        let mut ran = 0;
        for _ in 0..3000 {
            match try_one(&mut dice, operator) {
                Ok(true) => ran += 1,
                Ok(false) => {}
                Err(fault) => {
                    faults.push(fault);
                    break;
                }
            }
        }
        // a constant condition is the graph's
        if ran == 0 && operator.name != "If" {
            faults.push(format!("no {} was run", operator.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
