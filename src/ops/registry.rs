//! The list of all operators, one line each, and its lookup.

use std::fmt;

use super::operator::Operator;
use super::{
    activation, aggregate, arithmetic, attention, branch, cast, combine, concat, constant, conv,
    conv_transpose, cumulative, einsum, index, layer_norm, lrn, matmul, normalization, pad, pool, quantize,
    rearrange, reduction, refused, resize, scatter, select, shape, softmax, split,
};
use crate::error::printable;
use crate::onnx::node::Node;
use crate::{Error, Result};

/// All supported operators.
pub const OPERATORS: &[&Operator] = &[
    &conv::CONV,
    &conv_transpose::CONV_TRANSPOSE,
    &pool::MAX_POOL,
    &pool::AVERAGE_POOL,
    &pool::GLOBAL_AVERAGE_POOL,
    &pool::GLOBAL_MAX_POOL,
    &normalization::BATCH_NORMALIZATION,
    &layer_norm::LAYER_NORMALIZATION,
    &layer_norm::RMS_NORMALIZATION,
    &layer_norm::GROUP_NORMALIZATION,
    &layer_norm::INSTANCE_NORMALIZATION,
    &lrn::LRN,
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
    &activation::RECIPROCAL,
    &activation::LOG,
    &activation::SIN,
    &activation::COS,
    &activation::SOFTSIGN,
    &activation::MISH,
    &activation::SELU,
    &activation::CELU,
    &activation::THRESHOLDED_RELU,
    &activation::FLOOR,
    &activation::CEIL,
    &activation::ROUND,
    &activation::SIGN,
    &activation::NOT,
    &activation::IS_NAN,
    &activation::IS_INF,
    &softmax::SOFTMAX,
    &softmax::LOG_SOFTMAX,
    &arithmetic::ADD,
    &arithmetic::SUB,
    &arithmetic::MUL,
    &arithmetic::DIV,
    &arithmetic::POW,
    &combine::SUM,
    &combine::MEAN,
    &combine::MAX,
    &combine::MIN,
    &combine::P_RELU,
    &combine::MOD,
    &combine::WHERE,
    &combine::EQUAL,
    &combine::LESS,
    &combine::LESS_OR_EQUAL,
    &combine::GREATER,
    &combine::GREATER_OR_EQUAL,
    &combine::AND,
    &combine::OR,
    &combine::XOR,
    &matmul::GEMM,
    &matmul::MAT_MUL,
    &einsum::EINSUM,
    &attention::ATTENTION,
    &reduction::REDUCE_MEAN,
    &reduction::REDUCE_SUM,
    &cumulative::CUM_SUM,
    &aggregate::REDUCE_MAX,
    &aggregate::REDUCE_MIN,
    &aggregate::REDUCE_PROD,
    &aggregate::REDUCE_L1,
    &aggregate::REDUCE_L2,
    &aggregate::REDUCE_SUM_SQUARE,
    &aggregate::REDUCE_LOG_SUM,
    &aggregate::REDUCE_LOG_SUM_EXP,
    &shape::FLATTEN,
    &shape::RESHAPE,
    &shape::TRANSPOSE,
    &shape::SQUEEZE,
    &shape::UNSQUEEZE,
    &shape::IDENTITY,
    &shape::DROPOUT,
    &cast::CAST,
    &cast::CAST_LIKE,
    &shape::EXPAND,
    &shape::SHAPE,
    &shape::SIZE,
    &concat::CONCAT,
    &split::SPLIT,
    &index::GATHER,
    &scatter::GATHER_ELEMENTS,
    &scatter::GATHER_ND,
    &scatter::SCATTER_ELEMENTS,
    &scatter::SCATTER_ND,
    &rearrange::TILE,
    &rearrange::TRILU,
    &rearrange::DEPTH_TO_SPACE,
    &rearrange::SPACE_TO_DEPTH,
    &select::ARG_MAX,
    &select::ARG_MIN,
    &select::TOP_K,
    &select::ONE_HOT,
    &select::NON_ZERO,
    &index::SLICE,
    &pad::PAD,
    &resize::RESIZE,
    &resize::UPSAMPLE,
    &quantize::QUANTIZE_LINEAR,
    &quantize::DEQUANTIZE_LINEAR,
    &constant::CONSTANT,
    &constant::CONSTANT_OF_SHAPE,
    &constant::RANGE,
    &branch::IF,
];

/// The operator of this domain and type, or None. The default domain has two names, "" and "ai.onnx".
pub fn find(domain: &str, op_type: &str) -> Option<&'static Operator> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    OPERATORS.iter().find(|o| (o.domain, o.name) == (domain, op_type)).copied()
}

/// An unsupported operator of the file.
struct Unsupported {
    name: String,
    count: usize,
    /// Label of the first node with it.
    first: String,
    reason: Option<&'static str>,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, count, first, reason } = self;
        match count {
            1 => write!(f, "{name} ({first})")?,
            _ => write!(f, "{name} ({count} times, first at {first})")?,
        }
        reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Checks that all operators of `nodes` are supported.
///
/// # Errors
/// [`Error::Input`] about `file` that lists all unsupported operators by name, with the reason for those refused on
/// purpose.
pub fn check_all_known<'n>(nodes: impl Iterator<Item = &'n Node>, file: &str) -> Result<()> {
    let mut unknown: Vec<Unsupported> = Vec::new();
    for node in nodes.filter(|n| find(&n.domain, &n.op_type).is_none()) {
        let (name, reason) = match node.domain.as_str() {
            "" | "ai.onnx" => (printable(&node.op_type), refused::reason(&node.op_type)),
            domain => (printable(&format!("{domain}::{}", node.op_type)), refused::reason_of_domain(domain)),
        };
        match unknown.iter_mut().find(|u| u.name == name) {
            Some(known) => known.count += 1,
            None => unknown.push(Unsupported { name, count: 1, first: node.label(), reason }),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_by(|a, b| a.name.cmp(&b.name));
    let list: Vec<String> = unknown.iter().map(Unsupported::to_string).collect();
    Err(Error::invalid(printable(file), format!("operators that are not supported: {}", list.join("; "))))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_operator_is_there_once() {
        let mut seen = HashSet::new();
        for o in OPERATORS {
            assert!(seen.insert((o.domain, o.name)), "{} twice", o.name);
            assert!(refused::reason(o.name).is_none(), "{} is refused as well", o.name);
            assert_eq!(find(o.domain, o.name).map(|found| found.name), Some(o.name));
        }
        assert!(find("ai.onnx", "Relu").is_some());
        assert!(find("com.example", "Relu").is_none());
    }
}
