//! The structural diff: proves that a rewritten file is the original plus exactly the declared layer.
//!
//! Both files are compared field by field, as bytes. Nothing here uses the code that writes, since that is what is
//! checked. The layer found in the file is returned, so that the trainer can compare it with its own.

use crate::{
    Error, Result,
    error::printable,
    layer::{self, Form, Layer, Stored},
    onnx::{
        Model,
        node::{AttributeValue, Node},
        schema::{Type, number},
        tensor::Data,
        wire::{self, RawField},
    },
    rewrite::{Provenance, Record, revert},
    site::SitePlace,
};

/// What a rewritten file contains in addition to the original.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The layer's site, in nodes of the original.
    pub place: SitePlace,
    /// The layer in the file.
    pub layer: Layer,
    /// The provenance declared in the file.
    pub provenance: Provenance,
}

/// Proves that `purified` is bit for bit `original` except for one layer at the site that its metadata declares.
/// Returns what was inserted.
///
/// # Errors
/// [`Error::Check`] named `structure` with the first undeclared difference.
pub fn structural_diff(original: &Model, purified: &Model) -> Result<Declared> {
    if Record::is_there(original.metadata()) {
        let problem = "the original already has a layer (polarizer.* in its metadata)";
        return Err(Error::check("structure", format!("{}: {problem}", original.name())));
    }
    diff(original, purified)
        .map_err(|problem| Error::check("structure", format!("{}: {problem}", purified.name())))
}

fn diff(original: &Model, purified: &Model) -> Result<Declared, String> {
    if !Record::is_there(purified.metadata()) {
        return Err("the file declares no layer (no polarizer.* in its metadata)".into());
    }
    let record = Record::from_metadata(purified.metadata())?;
    if record.input_sha256 != original.sha256() {
        let declared = printable(&record.input_sha256);
        let found = original.sha256();
        return Err(format!(
            "it was made from the file with SHA-256 {declared}, but the original has {found}"
        ));
    }
    let pair = Pair { original, purified, record: &record };
    pair.model_fields()?;
    let (added, changed) = pair.graph_fields()?;
    pair.external_data()?;
    pair.added(&added)?;
    let (conv, norm) = pair.nodes(&added)?;
    let layer = pair.layer(conv, norm)?;
    let place = pair.place(&changed, conv, norm)?;
    if place.to_string() != record.place {
        let declared = printable(&record.place);
        return Err(format!("the layer is at {}, but {declared} is declared", printable(&place.to_string())));
    }
    pair.site(&place)?;
    if layer.sha256() != record.layer_sha256 {
        let declared = printable(&record.layer_sha256);
        return Err(format!("the layer has the digest {}, but {declared} is declared", layer.sha256()));
    }
    match revert(purified.bytes(), purified.name()) {
        Ok(bytes) if bytes == original.bytes() => {
            Ok(Declared { place, layer, provenance: record.provenance })
        }
        Ok(_) => Err("reverting it does not restore the original".into()),
        Err(e) => Err(format!("it cannot be reverted: {e}")),
    }
}

/// The two files and the second one's metadata.
struct Pair<'a> {
    original: &'a Model,
    purified: &'a Model,
    record: &'a Record,
}

/// Parts of the purified graph that are not in the original.
#[derive(Default)]
struct Added {
    /// Indices of nodes.
    nodes: Vec<usize>,
    initializers: Vec<String>,
    /// Names of graph inputs.
    inputs: Vec<String>,
}

/// A modified node: its index in the original, its index in the purified file.
type Changed = (usize, usize);

impl<'a> Pair<'a> {
    /// Compares the model's fields except the graph: all equal, followed by the metadata that declares the layer.
    fn model_fields(&self) -> Result<(), String> {
        let (a, b) = (self.original, self.purified);
        let before: Vec<RawField> = wire::fields(a.bytes(), 0..a.bytes().len()).collect();
        let after: Vec<RawField> = wire::fields(b.bytes(), 0..b.bytes().len()).collect();
        for (index, field) in before.iter().enumerate() {
            let name = |f: &RawField| field_name(Type::Model, f.number);
            let Some(other) = after.get(index) else {
                return Err(format!("the model's {} is missing", name(field)));
            };
            let same = if field.number == number::MODEL_GRAPH {
                a.slice(field.start..field.after_tag) == b.slice(other.start..other.after_tag)
            } else {
                a.slice(field.span()) == b.slice(other.span())
            };
            if !same {
                return Err(format!(
                    "the model's {} at byte {} differs from the original",
                    name(other),
                    other.start
                ));
            }
        }
        for field in after.iter().skip(before.len()) {
            // The record has checked the keys and that each is unique.
            let ours = field.number == number::MODEL_METADATA_PROPS
                && wire::fields(b.bytes(), field.value.clone())
                    .any(|f| f.number == 1 && wire::text(b.bytes(), &f).starts_with("polarizer."));
            if !ours {
                let name = field_name(Type::Model, field.number);
                return Err(format!("the model has an added {name} at byte {}", field.start));
            }
        }
        Ok(())
    }

    /// Compares the graph's fields in order: each is equal, declared as added, or a modified node.
    fn graph_fields(&self) -> Result<(Added, Vec<Changed>), String> {
        let (before, after) = (graph_fields(self.original), graph_fields(self.purified));
        let (a, b) = (self.original.bytes(), self.purified.bytes());
        let bytes_a = |f: &RawField| a.get(f.span()).unwrap_or_default();
        let bytes_b = |f: &RawField| b.get(f.span()).unwrap_or_default();
        let mut added = Added::default();
        let mut changed = Vec::new();
        let mut left = before.iter().peekable();
        let (mut node_a, mut node_b) = (0, 0);
        for other in &after {
            let is_node = other.number == number::GRAPH_NODE;
            if left.peek().is_some_and(|field| bytes_a(field) == bytes_b(other)) {
                left.next();
                node_a += usize::from(is_node);
            } else if self.declares(other, node_b) {
                match other.number {
                    number::GRAPH_NODE => added.nodes.push(node_b),
                    number::GRAPH_INITIALIZER => added.initializers.push(text_field(b, other, 8)),
                    _ => added.inputs.push(text_field(b, other, 1)),
                }
            } else {
                let what = || self.describe(other, node_b);
                let Some(field) = left.peek().copied() else { return Err(format!("{} was added", what())) };
                if before.iter().any(|f| bytes_a(f) == bytes_b(other)) {
                    return Err(format!("{} was moved, or something before it is missing", what()));
                }
                let both_nodes = field.number == number::GRAPH_NODE && is_node;
                if after.iter().any(|f| bytes_b(f) == bytes_a(field))
                    || both_nodes && !self.kin(node_a, node_b)
                {
                    return Err(format!("{} was added", what()));
                }
                if !both_nodes {
                    return Err(format!("{} differs from the original", what()));
                }
                left.next();
                changed.push((node_a, node_b));
                node_a += 1;
            }
            node_b += usize::from(is_node);
        }
        match left.next() {
            Some(field) => {
                let name = field_name(Type::Graph, field.number);
                Err(format!("a {name} of the graph is missing (byte {} of the original)", field.start))
            }
            None => Ok((added, changed)),
        }
    }

    /// Whether two different nodes could be the same node, modified. Only affects messages.
    fn kin(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.original.nodes().get(a), self.purified.nodes().get(b)) else {
            return false;
        };
        (!a.name.is_empty() && a.name == b.name)
            || a.inputs == b.inputs
            || a.outputs.iter().any(|o| b.outputs.contains(o))
    }

    /// Whether the metadata declares this field of the graph as added, by name.
    fn declares(&self, field: &RawField, node: usize) -> bool {
        let names = &self.record.names;
        let bytes = self.purified.bytes();
        match field.number {
            number::GRAPH_NODE => {
                self.purified.nodes().get(node).is_some_and(|n| n.name == names.conv || n.name == names.norm)
            }
            number::GRAPH_INITIALIZER => names.initializers().contains(&text_field(bytes, field, 8).as_str()),
            number::GRAPH_INPUT => names.initializers().contains(&text_field(bytes, field, 1).as_str()),
            _ => false,
        }
    }

    /// Describes a field of the purified graph for messages.
    fn describe(&self, field: &RawField, node: usize) -> String {
        let bytes = self.purified.bytes();
        let kind = field_name(Type::Graph, field.number);
        match field.number {
            number::GRAPH_NODE => {
                self.purified.nodes().get(node).map_or_else(|| "a node".into(), Node::label)
            }
            number::GRAPH_INITIALIZER => format!("{kind} \"{}\"", printable(&text_field(bytes, field, 8))),
            number::GRAPH_INPUT | number::GRAPH_OUTPUT => {
                format!("{kind} \"{}\"", printable(&text_field(bytes, field, 1)))
            }
            _ => format!("the graph's {kind} at byte {}", field.start),
        }
    }

    /// Compares external data: the two models may be in different folders.
    fn external_data(&self) -> Result<(), String> {
        for (index, name) in self.original.initializer_names().enumerate() {
            if self.original.external(index) != self.purified.external(index) {
                let shown = printable(name);
                return Err(format!(
                    "initializer \"{shown}\" has external data that differs from the original"
                ));
            }
        }
        Ok(())
    }

    /// Checks that exactly two nodes and the form's initializers were added, the latter also as inputs before IR 4.
    fn added(&self, added: &Added) -> Result<(), String> {
        let expected: Vec<String> = self.record.names.initializers().into_iter().map(str::to_owned).collect();
        let as_inputs = if self.original.ir_version() < 4 { expected.clone() } else { Vec::new() };
        if added.nodes.len() != 2 {
            return Err(format!("{} nodes were added, but 2 are declared", added.nodes.len()));
        }
        for (what, found, expected) in
            [("initializers", &added.initializers, &expected), ("graph inputs", &added.inputs, &as_inputs)]
        {
            let (mut found, mut expected) = (found.clone(), expected.clone());
            found.sort();
            expected.sort();
            if found != expected {
                return Err(format!("the {what} {found:?} were added, but {expected:?} are declared"));
            }
        }
        Ok(())
    }

    /// The two new nodes, checked to have exactly the form of a layer.
    fn nodes(&self, added: &Added) -> Result<(&'a Node, &'a Node), String> {
        let names = &self.record.names;
        let find = |name: &str| {
            let index =
                added.nodes.iter().find(|&&n| self.purified.nodes().get(n).is_some_and(|n| n.name == *name));
            let node = index.and_then(|&n| Some((n, self.purified.nodes().get(n)?)));
            node.ok_or_else(|| format!("the declared node \"{}\" was not added", printable(name)))
        };
        let ((conv_at, conv), (norm_at, norm)) = (find(&names.conv)?, find(&names.norm)?);
        let form = self.record.provenance.form;
        if form == Form::MatMul {
            self.form(conv_at, conv, "MatMul", &[&names.weight], &[])?;
            self.form(norm_at, norm, "Add", &[&names.bias], &[])?;
        } else {
            let axes = if form == Form::Conv1d { 1 } else { 2 };
            let expected: [(&str, AttributeValue); 5] = [
                ("dilations", AttributeValue::Ints(vec![1; axes])),
                ("group", AttributeValue::Int(1)),
                ("kernel_shape", AttributeValue::Ints(vec![1; axes])),
                ("pads", AttributeValue::Ints(vec![0; 2 * axes])),
                ("strides", AttributeValue::Ints(vec![1; axes])),
            ];
            self.form(conv_at, conv, "Conv", &[&names.weight], &expected)?;
            let rest = names.initializers().split_off(1);
            let epsilon = [("epsilon", AttributeValue::Float(epsilon(norm)?))];
            self.form(norm_at, norm, "BatchNormalization", &rest, &epsilon)?;
        }
        if conv.outputs != [names.between.clone()] || norm.inputs.first() != Some(&names.between) {
            return Err(format!(
                "{} is not the only consumer of the output of {}",
                norm.label(),
                conv.label()
            ));
        }
        Ok((conv, norm))
    }

    /// Checks one new node: operator, constant inputs, attributes, and no other field.
    fn form(
        &self,
        index: usize,
        node: &Node,
        op_type: &str,
        constants: &[&str],
        attributes: &[(&str, AttributeValue)],
    ) -> Result<(), String> {
        let label = node.label();
        if node.op_type != op_type || !node.domain.is_empty() {
            return Err(format!("{label} was added, expected {op_type}"));
        }
        if node.inputs.iter().skip(1).ne(constants.iter())
            || node.inputs.is_empty()
            || node.outputs.len() != 1
        {
            return Err(format!("{label} does not have the inputs and outputs of a layer"));
        }
        let found: Vec<String> =
            node.attributes.iter().map(|a| format!("{}: {:?}", a.name, a.value)).collect();
        let expected: Vec<String> =
            attributes.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        if found != expected {
            return Err(format!("{label} has the attributes {found:?}, expected {expected:?}"));
        }
        // input, output, name, op_type, attribute
        let message = self.purified.node_message(index).and_then(|m| self.purified.scan().messages.get(m));
        let body = message.map_or(0..0, |m| m.body.clone());
        match wire::fields(self.purified.bytes(), body).find(|f| !(1..=5).contains(&f.number)) {
            Some(field) => Err(format!("{label} has field {}, which a layer does not have", field.number)),
            None => Ok(()),
        }
    }

    /// Reads the layer's parameters.
    fn layer(&self, conv: &Node, norm: &Node) -> Result<Layer, String> {
        let names = conv.inputs.get(1).into_iter().chain(norm.inputs.iter().skip(1));
        let mut tensors = Vec::new();
        for name in names {
            let tensor = self.purified.initializer(name).map_err(|e| e.to_string())?;
            let tensor = tensor.ok_or_else(|| format!("there is no initializer \"{}\"", printable(name)))?;
            let stored = self.record.provenance.stored;
            let values = match (tensor.data, stored) {
                (Data::Float(values), Stored::Float) => values,
                (Data::Float16(values), Stored::Float16) => values.iter().map(|v| v.to_f32()).collect(),
                (Data::Bfloat16(values), Stored::Bfloat16) => values.iter().map(|v| v.to_f32()).collect(),
                (other, _) => {
                    let (found, declared) = (other.data_type(), stored.name());
                    let name = printable(name);
                    return Err(format!("initializer \"{name}\" holds {found}, but {declared} is declared"));
                }
            };
            tensors.push((tensor.dims, values));
        }
        let form = self.record.provenance.form;
        if form == Form::MatMul {
            return product_and_sum(tensors);
        }
        let Ok([weight, scale, bias, mean, var]) = <[_; 5]>::try_from(tensors) else {
            return Err("the layer does not have five initializers".into());
        };
        let channels = scale.1.len();
        let axes = if form == Form::Conv1d { 1 } else { 2 };
        if weight.0 != [&[channels, channels][..], &[1, 1][..axes]].concat()
            || [&scale, &bias, &mean, &var].iter().any(|t| t.0 != [channels])
        {
            return Err(format!("the layer's weight has dims {:?}, its scale {:?}", weight.0, scale.0));
        }
        let epsilon = epsilon(norm)?;
        let (weight, scale, bias, mean, var) = (weight.1, scale.1, bias.1, mean.1, var.1);
        let layer = Layer { channels, weight, scale, bias, mean, var, epsilon };
        match layer.problem() {
            Some(problem) => Err(format!("the layer {problem}")),
            None => Ok(layer),
        }
    }

    /// The layer's site, derived from the renamed inputs or outputs.
    fn place(&self, changed: &[Changed], conv: &Node, norm: &Node) -> Result<SitePlace, String> {
        let mut renamed = Vec::new();
        for &(a, b) in changed {
            renamed.extend(self.renamed(a, b)?);
        }
        let reads = conv.inputs.first().map_or("", String::as_str);
        let makes = norm.outputs.first().map_or("", String::as_str);
        let new = self.record.names.value.as_str();
        match &renamed[..] {
            [] => Err("nothing reads the layer".into()),
            // The producer writes a new value, which the layer reads; the layer writes the old one.
            [Renamed { number: number::NODE_OUTPUT, before, after, .. }] if after == new => {
                if reads != new || makes != before {
                    return Err(format!(
                        "the layer's output is \"{}\", expected \"{}\"",
                        printable(makes),
                        printable(before)
                    ));
                }
                Ok(SitePlace::Value { name: before.clone() })
            }
            // Consumers read the layer's new value instead of the old one.
            [first, ..] => {
                for name in &renamed {
                    let of_layer = name.number == number::NODE_INPUT && name.after == new && makes == new;
                    if !of_layer || name.before != reads {
                        return Err(format!(
                            "{} has \"{}\" where the original has \"{}\"",
                            self.original.nodes().get(name.node).map(Node::label).unwrap_or_default(),
                            printable(&name.after),
                            printable(&name.before)
                        ));
                    }
                }
                let readers =
                    self.original.nodes().iter().flat_map(|n| &n.inputs).filter(|i| *i == reads).count();
                let is_value = self.record.place.parse() == Ok(SitePlace::Value { name: reads.to_owned() });
                match (is_value, renamed.len()) {
                    (true, count) if count == readers => Ok(SitePlace::Value { name: reads.to_owned() }),
                    (false, 1) => Ok(SitePlace::Edge { node: first.node, input: first.place }),
                    (_, count) => {
                        Err(format!("{count} of {readers} consumers of \"{}\" changed", printable(reads)))
                    }
                }
            }
        }
    }

    /// The renamed inputs and outputs of one node; anything else in it must be unchanged.
    fn renamed(&self, a: usize, b: usize) -> Result<Vec<Renamed>, String> {
        let label = self.original.nodes().get(a).map(Node::label).unwrap_or_default();
        let changed = || format!("{label} differs from the original");
        let (tag_a, fields_a) = node_fields(self.original, a).ok_or_else(changed)?;
        let (tag_b, fields_b) = node_fields(self.purified, b).ok_or_else(changed)?;
        if tag_a != tag_b || fields_a.len() != fields_b.len() {
            return Err(changed());
        }
        let mut renamed = Vec::new();
        let mut places = [0_usize; 3];
        for (old, new) in fields_a.iter().zip(&fields_b) {
            let (bytes_a, bytes_b) = (self.original.bytes(), self.purified.bytes());
            let place = places.get(old.number as usize).copied().unwrap_or(0);
            if let Some(count) = places.get_mut(old.number as usize) {
                *count += 1;
            }
            if bytes_a.get(old.span()) == bytes_b.get(new.span()) {
                continue;
            }
            let (tag_a, tag_b) = (old.start..old.after_tag, new.start..new.after_tag);
            let name = matches!(old.number, number::NODE_INPUT | number::NODE_OUTPUT);
            if !name || self.original.slice(tag_a) != self.purified.slice(tag_b) {
                return Err(changed());
            }
            renamed.push(Renamed {
                node: a,
                number: old.number,
                place,
                before: wire::text(bytes_a, old).to_owned(),
                after: wire::text(bytes_b, new).to_owned(),
            });
        }
        Ok(renamed)
    }

    /// Checks that the site shown to users is the one found: it names the consumer or the value.
    fn site(&self, place: &SitePlace) -> Result<(), String> {
        let site = self.record.provenance.site.as_str();
        let (reader, value) = match place {
            SitePlace::Value { name } => (None, name.as_str()),
            SitePlace::Edge { node, input } => {
                let reader = self.original.nodes().get(*node);
                (reader, reader.and_then(|r| r.inputs.get(*input)).map_or("", String::as_str))
            }
        };
        let fits = match (site.strip_prefix("node:"), site.strip_prefix("value:")) {
            (Some(name), _) => reader.is_some_and(|r| {
                let rest = name.strip_prefix(r.name.as_str());
                rest.is_some_and(|rest| r.name.is_empty() || rest.is_empty() || rest.starts_with(':'))
            }),
            (None, Some(name)) => reader.is_none() && name == value,
            (None, None) => site == value || reader.is_some_and(|r| r.name == site),
        };
        if fits {
            return Ok(());
        }
        let (site, place) = (printable(site), printable(&place.to_string()));
        Err(format!("the layer is at {place}, but the site is given as \"{site}\""))
    }
}

/// The epsilon of a BatchNormalization.
fn epsilon(norm: &Node) -> Result<f32, String> {
    match norm.attributes.first().map(|a| &a.value) {
        Some(AttributeValue::Float(epsilon)) => Ok(*epsilon),
        _ => Err(format!("{} has no epsilon", norm.label())),
    }
}

/// The layer of a MatMul and an Add: weight, (C, C) with the input channel first, and bias, (C).
fn product_and_sum(tensors: Vec<(Vec<usize>, Vec<f32>)>) -> Result<Layer, String> {
    let Ok([weight, bias]) = <[_; 2]>::try_from(tensors) else {
        return Err("the layer does not have two initializers".into());
    };
    let channels = bias.1.len();
    if weight.0 != [channels, channels] || bias.0 != [channels] {
        return Err(format!("the layer's weight has dims {:?}, its bias {:?}", weight.0, bias.0));
    }
    let turned = layer::from_folded(channels, weight.1, bias.1);
    let layer = Layer { weight: turned.transposed_weight(), ..turned };
    layer.problem().map_or(Ok(layer), |problem| Err(format!("the layer {problem}")))
}

/// A renamed input or output of a node.
struct Renamed {
    /// The node's index in the original.
    node: usize,
    /// The field of NodeProto.
    number: u32,
    /// Its index among the fields of that number.
    place: usize,
    before: String,
    after: String,
}

fn graph_fields(model: &Model) -> Vec<RawField> {
    let body = model.scan().messages.get(model.graph_message()).map_or(0..0, |m| m.body.clone());
    wire::fields(model.bytes(), body).collect()
}

/// Tag and fields of a node.
fn node_fields(model: &Model, index: usize) -> Option<(&[u8], Vec<RawField>)> {
    let message = model.scan().messages.get(model.node_message(index)?)?;
    let fields = wire::fields(model.bytes(), message.body.clone()).collect();
    Some((model.slice(message.start..message.length_at), fields))
}

/// The text in field `number` of the message in `field`.
fn text_field(bytes: &[u8], field: &RawField, number: u32) -> String {
    let inner = wire::fields(bytes, field.value.clone()).find(|f| f.number == number);
    inner.map(|f| wire::text(bytes, &f).to_owned()).unwrap_or_default()
}

fn field_name(message: Type, number: u32) -> String {
    message.field(number).map_or_else(|| format!("unknown field {number}"), |f| f.name.to_owned())
}
