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
        reason: "it computes with quantized numbers; only float32 networks are supported, \
                 so purify the model before it is quantized",
        operators: &[
            "ConvInteger",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
        ],
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
