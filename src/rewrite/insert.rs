//! Inserts the layer into the model's file.

use std::collections::HashSet;

use super::{
    LayerFile, Names, Provenance, Record,
    encode::{self, Value},
    provenance::Undo,
};
use crate::{
    Error, Result,
    error::printable,
    layer::{Form, Layer, Stored},
    onnx::{
        Model,
        limits::MAX_FILE,
        node::Node,
        schema::{Kind, Type, number},
        splice::{self, Edit},
        wire,
    },
    site::SitePlace,
};

/// The bytes of `model` with `layer` inserted at `place`.
///
/// # Errors
/// [`Error::Input`] if the layer cannot be inserted there, the model already has one, or the result is too large.
pub fn insert(model: &Model, place: &SitePlace, layer: &Layer, provenance: &Provenance) -> Result<Vec<u8>> {
    let refused = |problem: String| Error::invalid(model.name(), problem);
    if let Some(problem) = layer.problem() {
        return Err(Error::invalid("the layer", problem));
    }
    if provenance.form == Form::MatMul && !layer.is_folded() {
        return Err(Error::invalid("the layer", "is written as a product and a sum, and has statistics"));
    }
    let Provenance { form, stored, .. } = *provenance;
    if !layer.is_stored_as(stored, form) {
        let problem = format!("has numbers that are none of {}", stored.name());
        return Err(Error::invalid("the layer", problem));
    }
    if Record::is_there(model.metadata()) {
        let problem =
            "already has a layer (polarizer.* in its metadata); remove it with `polarizer revert` first";
        return Err(refused(problem.into()));
    }
    let names = fresh_names(model, form);
    let seam = seam(model, place, &names).map_err(refused)?;
    let edits = edits(model, layer, &names, (form, stored), seam)
        .ok_or_else(|| Error::internal("a node that is not in the file"))?;
    let changes = splice::mend(model.bytes(), model.scan(), edits).map_err(refused)?;
    let mut bytes =
        splice::apply(model.bytes(), &changes).ok_or_else(|| Error::internal("edits outside the file"))?;
    let record = Record {
        provenance: provenance.clone(),
        place: place.to_string(),
        input_sha256: model.sha256(),
        layer_sha256: layer.sha256(),
        names,
        undo: Undo::new(bytes.len(), &splice::invert(model.bytes(), &changes)),
    };
    // Appended at the end (protobuf fields may come in any order), so that earlier offsets do not change.
    for (key, value) in record.entries().map_err(Error::internal)? {
        bytes.extend(encode::metadata(&key, &value));
    }
    if bytes.len() > MAX_FILE {
        return Err(refused(format!(
            "with the layer it has {} bytes; an ONNX file can have at most {MAX_FILE}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The bytes of `model` with the layer of a layer file that was trained for it.
///
/// # Errors
/// As [`insert`]; also [`Error::Input`] if the layer was trained for another file.
pub fn apply(model: &Model, file: &LayerFile) -> Result<Vec<u8>> {
    file.check_belongs(model)?;
    insert(model, &file.place, &file.layer, &file.provenance)
}

/// How the new nodes are connected.
struct Seam {
    /// Input of the first new node.
    reads: String,
    /// Output of the second.
    makes: String,
    /// Index of the node that the new nodes are inserted next to.
    beside: usize,
    /// Whether they go after it or before it.
    after: bool,
    /// Renamed inputs or outputs: node, field of NodeProto, index within that field, new name.
    renamed: Vec<(usize, u32, usize, String)>,
}

fn seam(model: &Model, place: &SitePlace, names: &Names) -> Result<Seam, String> {
    match place {
        SitePlace::Edge { node, input } => edge(model, *node, *input, names),
        SitePlace::Value { name } => value(model, name, names),
    }
}

/// Edge: one consumer reads the layer's output under a new name; all others keep reading the original value.
fn edge(model: &Model, node: usize, input: usize, names: &Names) -> Result<Seam, String> {
    let count = model.nodes().len();
    let reader = model.nodes().get(node).ok_or_else(|| format!("has {count} nodes, none at {node}"))?;
    let inputs = reader.inputs.len();
    let read = reader.inputs.get(input).filter(|name| !name.is_empty());
    let read = read.ok_or_else(|| format!("{} has no input {input} ({inputs} inputs)", reader.label()))?;
    if model.initializer_shape(read).is_some() {
        let shown = printable(read);
        return Err(format!(
            "input {input} of {} is the initializer \"{shown}\"; a layer goes on a computed value",
            reader.label()
        ));
    }
    Ok(Seam {
        reads: read.clone(),
        makes: names.value.clone(),
        beside: node,
        after: false,
        renamed: vec![(node, number::NODE_INPUT, input, names.value.clone())],
    })
}

/// Value: all consumers read the layer's output. If a node produces the value, its output is renamed and the layer's
/// output takes the old name, so that no consumer, graph output or subgraph changes.
fn value(model: &Model, name: &str, names: &Names) -> Result<Seam, String> {
    let shown = printable(name);
    if name.is_empty() {
        return Err("the name of the value is empty".into());
    }
    if model.initializer_shape(name).is_some() {
        return Err(format!("\"{shown}\" is an initializer; a layer goes on a computed value"));
    }
    let producer = model.nodes().iter().enumerate().find_map(|(index, node)| {
        let output = node.outputs.iter().position(|o| o == name)?;
        Some((index, output))
    });
    if let Some((node, output)) = producer {
        return Ok(Seam {
            reads: names.value.clone(),
            makes: name.to_owned(),
            beside: node,
            after: true,
            renamed: vec![(node, number::NODE_OUTPUT, output, names.value.clone())],
        });
    }
    if !model.inputs().iter().any(|i| i.name == name) {
        return Err(format!("no node produces \"{shown}\""));
    }
    // Callers use the name of a graph input, so here the consumers are renamed instead.
    if model.outputs().iter().any(|o| o.name == name) {
        return Err(format!(
            "\"{shown}\" is both an input and an output of the graph; a layer cannot be inserted between them"
        ));
    }
    if let Some(node) = captured(model, name) {
        return Err(format!(
            "\"{shown}\" is a graph input that a subgraph of {} reads; a layer cannot be inserted there",
            node.label()
        ));
    }
    let mut renamed = Vec::new();
    for (index, node) in model.nodes().iter().enumerate() {
        for (input, _) in node.inputs.iter().enumerate().filter(|(_, i)| *i == name) {
            renamed.push((index, number::NODE_INPUT, input, names.value.clone()));
        }
    }
    let first = renamed.first().map(|r| r.0).ok_or_else(|| format!("no node reads \"{shown}\""))?;
    Ok(Seam { reads: name.to_owned(), makes: names.value.clone(), beside: first, after: false, renamed })
}

/// The node of the main graph whose subgraph uses `name` as an input or output.
fn captured<'a>(model: &'a Model, name: &str) -> Option<&'a Node> {
    let messages = &model.scan().messages;
    let inner = messages.iter().position(|m| {
        let field = match m.kind {
            Type::Node if m.parent != model.graph_message() => number::NODE_INPUT,
            // Name of a subgraph's output.
            Type::ValueInfo if m.parent != model.graph_message() => 1,
            _ => return false,
        };
        let mut fields = wire::fields(model.bytes(), m.body.clone());
        fields.any(|f| f.number == field && wire::text(model.bytes(), &f) == name)
    })?;
    let at = messages.get(inner)?.start;
    (0..model.nodes().len())
        .find(|&index| {
            model.node_message(index).and_then(|m| messages.get(m)).is_some_and(|m| m.span().contains(&at))
        })
        .and_then(|index| model.nodes().get(index))
}

/// The edits that insert the layer at `seam`.
fn edits(
    model: &Model,
    layer: &Layer,
    names: &Names,
    (form, stored): (Form, Stored),
    seam: Seam,
) -> Option<Vec<Edit>> {
    let messages = &model.scan().messages;
    let graph = model.graph_message();
    let mut edits = Vec::new();
    for (node, number, place, name) in seam.renamed {
        let inside = model.node_message(node)?;
        let body = messages.get(inside)?.body.clone();
        let field = wire::fields(model.bytes(), body).filter(|f| f.number == number).nth(place)?;
        let at = field.after_tag..field.value.end;
        edits.push(Edit { inside, at, with: splice::with_length(name.as_bytes()) });
    }
    let beside = messages.get(model.node_message(seam.beside)?)?.span();
    let at = if seam.after { beside.end } else { beside.start };
    edits.push(Edit { inside: graph, at: at..at, with: nodes(layer, names, form, &seam.reads, &seam.makes) });
    let end = messages.get(graph)?.body.end;
    edits.push(Edit {
        inside: graph,
        at: end..end,
        with: initializers(layer, names, (form, stored), model.ir_version()),
    });
    Some(edits)
}

/// The two nodes. In every opset from 7 on, this form of BatchNormalization (five inputs, one output, explicit epsilon)
/// means inference with the given statistics. A Conv with two inputs has no bias.
fn nodes(layer: &Layer, names: &Names, form: Form, reads: &str, makes: &str) -> Vec<u8> {
    if form == Form::MatMul {
        let mut out = encode::node(&names.conv, "MatMul", &[reads, &names.weight], &names.between, &[]);
        out.extend(encode::node(&names.norm, "Add", &[&names.between, &names.bias], makes, &[]));
        return out;
    }
    let axes = if form == Form::Conv1d { 1 } else { 2 };
    let conv = [
        ("dilations", Value::Ints(&[1, 1][..axes])),
        ("group", Value::Int(1)),
        ("kernel_shape", Value::Ints(&[1, 1][..axes])),
        ("pads", Value::Ints(&[0, 0, 0, 0][..2 * axes])),
        ("strides", Value::Ints(&[1, 1][..axes])),
    ];
    let mut out = encode::node(&names.conv, "Conv", &[reads, &names.weight], &names.between, &conv);
    let inputs = [names.between.as_str(), &names.scale, &names.bias, &names.mean, &names.var];
    let norm = [("epsilon", Value::Float(layer.epsilon))];
    out.extend(encode::node(&names.norm, "BatchNormalization", &inputs, makes, &norm));
    out
}

fn initializers(layer: &Layer, names: &Names, (form, stored): (Form, Stored), ir_version: i64) -> Vec<u8> {
    let c = layer.channels as i64;
    let weight = match form {
        Form::Conv2d => vec![c, c, 1, 1],
        Form::Conv1d => vec![c, c, 1],
        Form::MatMul => vec![c, c],
    };
    let dims = |name: &str| if name == names.weight { weight.clone() } else { vec![c] };
    let mut out = Vec::new();
    if form == Form::MatMul {
        // a MatMul multiplies from the right: the input channel comes first
        out.extend(encode::initializer(&names.weight, &weight, &layer.transposed_weight(), stored));
        out.extend(encode::initializer(&names.bias, &[c], &layer.bias, stored));
    } else {
        for (name, values) in names.initializers().into_iter().zip(layer.tensors()) {
            out.extend(encode::initializer(name, &dims(name), values, stored));
        }
    }
    // Before IR 4 every initializer must also be a graph input.
    if ir_version < 4 {
        let input = |name| encode::graph_input(name, &dims(name), stored);
        out.extend(names.initializers().into_iter().flat_map(input));
    }
    out
}

/// Names that are unused in every scope (subgraphs see the main graph's names; annotations and functions have their
/// own). Conservative: any text field of the file counts as a used name.
fn fresh_names(model: &Model, form: Form) -> Names {
    let mut taken = HashSet::new();
    for message in &model.scan().messages {
        for field in wire::fields(model.bytes(), message.body.clone()) {
            if message.kind.field(field.number).is_some_and(|f| f.kind == Kind::Text) {
                taken.insert(wire::text(model.bytes(), &field));
            }
        }
    }
    let mut names = Names::from_stem("polarizer", form);
    // Terminates: each rejected stem requires another used name.
    for count in 2.. {
        if names.all().iter().all(|name| !taken.contains(name)) {
            break;
        }
        names = Names::from_stem(&format!("polarizer_{count}"), form);
    }
    names
}
