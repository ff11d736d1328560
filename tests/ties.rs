//! Where there is no derivative, the gradients are PyTorch's: `tests/scripts/torch_ties.py` wrote what it gives.

use candle_core::{Device, Tensor};
use polarizer::internals::ops::{self, Array, ConvCache, Input, Output, Run, Saved, Setting};
use polarizer::onnx::node::{Attribute, AttributeValue, Node};
use polarizer::onnx::tensor::DataType;
use serde_json::Value;

fn numbers(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn shape(v: &Value) -> Vec<usize> {
    v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn attribute(name: &str, value: &Value) -> Attribute {
    let value = match value {
        Value::Array(all) => AttributeValue::Ints(all.iter().map(|v| v.as_i64().unwrap()).collect()),
        Value::Number(n) if n.is_f64() => AttributeValue::Float(n.as_f64().unwrap() as f32),
        other => AttributeValue::Int(other.as_i64().unwrap()),
    };
    Attribute { name: name.to_string(), value }
}

#[test]
fn gradients_at_kinks_and_ties_are_pytorchs() {
    let cases: Value = serde_json::from_str(include_str!("vectors/torch_ties.json")).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let constants = numbers(&case["inputs"]);
        let node = Node {
            name: name.to_string(),
            op_type: case["op"].as_str().unwrap().to_string(),
            domain: String::new(),
            inputs: (0..=constants.len()).map(|i| format!("i{i}")).collect(),
            outputs: vec!["y".to_string()],
            attributes: case["attributes"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| attribute(k, v))
                .collect(),
        };
        let x_shape = shape(&case["x_shape"]);
        let mut inputs = vec![Input::value(x_shape.clone(), true, DataType::Float, ops::of_images(&x_shape))];
        inputs.extend(constants.iter().map(|&v| Input::Constant(Tensor::new(v, &Device::Cpu).unwrap())));
        let convs = ConvCache::default();
        let opset = case["opset"].as_i64().unwrap();
        let setting = Setting {
            opset,
            batch: None,
            convs: &convs,
            precision: polarizer::internals::kernels::Precision::F32,
            stored: &|_| None,
        };
        let operator = ops::find("", &node.op_type).unwrap();
        let lowered = operator.lower(&node, 0, inputs, &setting).unwrap().remove(0);
        let Output::Run(Run { shape: y_shape, exec, .. }) = lowered else { panic!("{name}: a constant") };
        assert_eq!(y_shape, shape(&case["y_shape"]), "{name}");
        let array = |values: Vec<f32>, shape: &[usize]| {
            Array::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let mut kept = Saved::default();
        let y = exec.forward(vec![array(numbers(&case["x"]), &x_shape)], Some(&mut kept)).unwrap();
        let dy = array((1..=y.len()).map(|i| i as f32).collect(), &y_shape);
        let dx = exec.vjp(&kept, dy, &[true]).unwrap().remove(0).unwrap();
        for (what, found, expected) in [("output", y, &case["y"]), ("gradient", dx, &case["dx"])] {
            let found: Vec<f32> = found.tensor().flatten_all().unwrap().to_vec1().unwrap();
            let expected = numbers(expected);
            let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
            assert!(
                found.len() == expected.len() && found.iter().zip(&expected).all(agrees),
                "{name}: {what} {found:?}, expected {expected:?}"
            );
        }
    }
}
