//! If: one of two graphs. With a constant condition the chosen one takes the node's place while the graph is lowered;
//! any other condition is refused here.

use super::attributes::{Attribute, Given, Kind};
use super::axes_rules;
use super::call::{Call, Lowered};
use super::operator::{Operator, Placement, arity};
use crate::Result;

pub const IF: Operator = Operator::new("If", &[arity(7, 1, 1)], lower)
    .outputs(&[arity(7, 1, usize::MAX)], &[])
    .attributes(&[
        Attribute::required("else_branch", Kind::Graph),
        Attribute::required("then_branch", Kind::Graph),
    ])
    .limits("A constant condition: the branch is chosen while the model is read.")
    .on_gpu(Placement::Nowhere)
    .axes(axes_rules::unknown);

fn lower(call: &Call) -> Result<Lowered> {
    let nodes = |name: &str| match call.attribute(name) {
        Given::Graph(branch) => branch.nodes.len(),
        _ => 0,
    };
    Err(call.error(format!(
        "which of its branches ({} and {} nodes) runs depends on the image; export the model by tracing it with one \
         image",
        nodes("then_branch"),
        nodes("else_branch")
    )))
}
