//! Operators that are known and refused, with the reason and the way out. Unlike those that are merely not written yet,
//! no gradient goes through them, or they make another network than the one that can be trained here.

/// Why operators are refused.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong with them, and what the user can do.
    pub reason: &'static str,
    /// Their types, in ONNX's own domain.
    pub operators: &'static [&'static str],
}

/// Every operator that is refused.
pub const REFUSED: &[Refusal] = &[
    Refusal {
        reason: "it picks by value, and no gradient goes through what it picks; \
                 export the model up to its input, so that it ends with scores for the classes",
        operators: &["TopK", "ArgMax", "ArgMin", "Hardmax", "NonMaxSuppression", "NonZero", "Unique"],
    },
    Refusal {
        reason: "its gradient is 0 wherever it has one; export the model without rounding",
        operators: &["Ceil", "Floor", "Round", "Sign"],
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
        reason: "it gives other numbers in each run; export the model for inference",
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
        operators: &["If", "Loop", "Scan"],
    },
];

/// Why the operator of ONNX's own domain is refused; None where it is not known to be.
pub fn reason(op_type: &str) -> Option<&'static str> {
    REFUSED.iter().find(|r| r.operators.contains(&op_type)).map(|r| r.reason)
}
