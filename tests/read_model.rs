//! Reading a model: the given files, as the other parts see them.

mod common;

use polarizer::onnx::{Model, node::Dim, tensor::Data};

#[test]
fn the_given_models_are_read() {
    for (file, nodes, initializers, opset, ir) in [
        ("preactresnet18-badnets", 55, 62, 17, 8),
        ("preactresnet18-w16-blended", 55, 62, 17, 8),
        ("preactresnet18-w16-wanet", 55, 62, 17, 8),
        ("mobilenetv3s-badnets", 122, 110, 20, 10),
    ] {
        let Some(path) = common::shared(&format!("models/{file}.onnx")) else { return };
        let model = Model::read(&path).unwrap();
        assert_eq!(model.nodes().len(), nodes, "{file}");
        assert_eq!(model.initializer_names().count(), initializers, "{file}");
        assert_eq!((model.opset(), model.ir_version()), (opset, ir), "{file}");
        assert_eq!(model.name(), format!("{file}.onnx"));
        let [input] = model.inputs() else { panic!("{file}: {:?}", model.inputs()) };
        assert_eq!(input.name, "input");
        assert_eq!(input.shape.as_ref().unwrap()[1..], [Dim::Fixed(3), Dim::Fixed(32), Dim::Fixed(32)]);
        assert_eq!(model.outputs()[0].name, "logits");
        assert_eq!(model.unknown_fields(), 0);
        for name in model.initializer_names() {
            let tensor = model.initializer(name).unwrap().unwrap();
            assert_eq!(tensor.name, name);
            assert_eq!(tensor.data.len(), tensor.dims.iter().product::<usize>());
            assert_eq!(tensor.non_finite(), None);
            assert!(matches!(tensor.data, Data::Float(_) | Data::Int64(_)));
        }
        assert!(model.initializer("no such tensor").unwrap().is_none());
    }
}
