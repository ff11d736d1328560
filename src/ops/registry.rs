//! The list of all operators, one line each, and the search in it.

use super::operator::Operator;
use super::{
    activation, arithmetic, constant, conv, index, matmul, normalization, pool, reduction, shape, softmax,
};
use crate::error::printable;
use crate::onnx::model::Node;
use crate::{Error, Result};

/// Every operator there is.
pub const OPERATORS: &[&Operator] = &[
    &conv::CONV,
    &pool::MAX_POOL,
    &pool::AVERAGE_POOL,
    &pool::GLOBAL_AVERAGE_POOL,
    &pool::GLOBAL_MAX_POOL,
    &normalization::BATCH_NORMALIZATION,
    &activation::RELU,
    &activation::LEAKY_RELU,
    &activation::ELU,
    &activation::CLIP,
    &activation::SIGMOID,
    &activation::HARD_SIGMOID,
    &activation::HARD_SWISH,
    &activation::SWISH,
    &activation::GELU,
    &activation::TANH,
    &activation::ERF,
    &activation::SOFTPLUS,
    &activation::EXP,
    &activation::SQRT,
    &activation::NEG,
    &activation::ABS,
    &softmax::SOFTMAX,
    &softmax::LOG_SOFTMAX,
    &arithmetic::ADD,
    &arithmetic::SUB,
    &arithmetic::MUL,
    &arithmetic::DIV,
    &arithmetic::POW,
    &matmul::GEMM,
    &matmul::MAT_MUL,
    &reduction::REDUCE_MEAN,
    &reduction::REDUCE_SUM,
    &shape::FLATTEN,
    &shape::RESHAPE,
    &shape::TRANSPOSE,
    &shape::SQUEEZE,
    &shape::UNSQUEEZE,
    &shape::IDENTITY,
    &shape::DROPOUT,
    &shape::CAST,
    &shape::EXPAND,
    &shape::SHAPE,
    &index::CONCAT,
    &index::GATHER,
    &index::SLICE,
    &index::PAD,
    &constant::CONSTANT,
    &constant::CONSTANT_OF_SHAPE,
];

/// The operator of this domain and type; None where there is none. ONNX's own domain has two names.
pub fn find(domain: &str, op_type: &str) -> Option<&'static Operator> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    OPERATORS.iter().find(|o| (o.domain, o.name) == (domain, op_type)).copied()
}

/// The whole list of `nodes`' operators that are not supported, in one error.
pub fn check_all_known(nodes: &[Node], file: &str) -> Result<()> {
    let mut unknown: Vec<(String, usize, String)> = Vec::new();
    for node in nodes.iter().filter(|n| find(&n.domain, &n.op_type).is_none()) {
        let name = match node.domain.as_str() {
            "" | "ai.onnx" => printable(&node.op_type),
            domain => printable(&format!("{domain}::{}", node.op_type)),
        };
        match unknown.iter_mut().find(|(n, ..)| *n == name) {
            Some((_, count, _)) => *count += 1,
            None => unknown.push((name, 1, node.label())),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort();
    let list: Vec<String> =
        unknown.iter().map(|(name, n, first)| format!("{name} ({n} times, first at {first})")).collect();
    Err(Error::invalid(printable(file), format!("operators that are not supported: {}", list.join("; "))))
}
