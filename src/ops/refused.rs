//! Operators that are refused on purpose, with the reason and a way out. Unlike those that are merely not
//! implemented, they pass no useful gradient, or the network is not one that can be trained.

/// Why operators are refused.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong, and what the user can do about it.
    pub reason: &'static str,
    /// The operators' types, in ONNX's default domain.
    pub operators: &'static [&'static str],
}

/// All refused operators.
pub const REFUSED: &[Refusal] = &[
    Refusal {
        reason: "it selects elements by value, which no gradient passes through; \
                 export the model up to its input, so that it ends with scores for the classes",
        operators: &["Hardmax", "NonMaxSuppression", "Unique"],
    },
    Refusal {
        reason: "it computes with integers, whose scales are taken from each image or fixed in fused operators; \
                 purify the float model before it is quantized, or one quantized with QuantizeLinear and \
                 DequantizeLinear around float operators (QDQ)",
        operators: &["ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"],
    },
    Refusal {
        reason: "its output is random; export the model for inference",
        operators: &[
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ],
    },
    Refusal {
        reason: "which nodes run depends on the image; export the model by tracing it with one image",
        operators: &["Loop", "Scan"],
    },
];

/// Why an operator of the default domain is refused; None if it is not in the list.
pub fn reason(op_type: &str) -> Option<&'static str> {
    REFUSED.iter().find(|r| r.operators.contains(&op_type)).map(|r| r.reason)
}

/// Domains of operators that onnxruntime writes when it saves what it made of a model.
const OPTIMISED: [&str; 3] = ["com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"];

/// Why the operators of another domain are refused, as far as it is known.
pub fn reason_of_domain(domain: &str) -> Option<&'static str> {
    OPTIMISED.contains(&domain).then_some(
        "onnxruntime's own, written when it saves an optimised model; take the file before that optimisation, \
         or save it with the basic optimisations alone",
    )
}
