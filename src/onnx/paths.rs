//! Which nodes of the main graph lead to a value.

use std::collections::{HashMap, HashSet};

use super::{
    model::Model,
    node::{AttributeValue, Node},
    schema::{Type, number},
    wire,
};

/// The nodes of a model by what they make.
pub struct Paths<'a> {
    model: &'a Model,
    makers: HashMap<&'a str, usize>,
}

impl<'a> Paths<'a> {
    /// The paths of `model`.
    pub fn of(model: &'a Model) -> Self {
        let outputs = |(index, node): (usize, &'a Node)| {
            let named = node.outputs.iter().filter(|name| !name.is_empty());
            named.map(move |name| (name.as_str(), index))
        };
        Self { model, makers: model.nodes().iter().enumerate().flat_map(outputs).collect() }
    }

    /// The node that makes a value; None for inputs and initializers.
    pub fn maker(&self, value: &str) -> Option<&'a Node> {
        self.model.nodes().get(*self.makers.get(value)?)
    }

    /// By node, in the order of the file: whether `value` depends on it.
    pub fn needed(&self, value: &str) -> Vec<bool> {
        let mut needed = vec![false; self.model.nodes().len()];
        let mut open: Vec<usize> = self.makers.get(value).copied().into_iter().collect();
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut needed[index], true) {
                continue;
            }
            let node = &self.model.nodes()[index];
            open.extend(node.inputs.iter().filter_map(|name| self.makers.get(name.as_str())));
            if node
                .attributes
                .iter()
                .any(|a| matches!(a.value, AttributeValue::Other(_) | AttributeValue::Graph(_)))
            {
                open.extend(self.captured(index).iter().filter_map(|name| self.makers.get(name)));
            }
        }
        needed
    }

    /// Names that the subgraphs of a node read or return; those of the main graph are among them.
    fn captured(&self, node: usize) -> HashSet<&'a str> {
        let model = self.model;
        let messages = &model.scan().messages;
        let Some(span) = model.node_message(node).and_then(|m| messages.get(m)).map(|m| m.span()) else {
            return HashSet::new();
        };
        let inside = messages.iter().filter(|m| span.start < m.start && m.start < span.end);
        let names = inside.flat_map(|m| {
            let wanted = match m.kind {
                Type::Node => Some(number::NODE_INPUT),
                // the name of a subgraph's output
                Type::ValueInfo => Some(1),
                _ => None,
            };
            let fields = wire::fields(model.bytes(), m.body.clone());
            fields.filter(move |f| Some(f.number) == wanted).map(|f| wire::text(model.bytes(), &f))
        });
        names.collect()
    }
}
