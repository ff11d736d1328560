//! Limits on model files, each with its reason. Exceeding one is an error that names it; all are far above what image
//! classifiers need.

/// Maximum size of a file, read or written, in bytes: protobuf libraries use a signed 32-bit message size.
pub const MAX_FILE: usize = (1 << 31) - 1;

/// Maximum nesting of messages. protobuf libraries stop at 100; an `If` takes three levels, a classifier ten.
pub const MAX_DEPTH: usize = 64;

/// Maximum number of messages, at about 40 bytes of memory each. PyTorch's largest exported classifiers have about
/// 10,000.
pub const MAX_MESSAGES: usize = 1 << 20;

/// Maximum bytes of an encoded tag or length. Both are 32-bit numbers; protobuf libraries disagree on longer, padded
/// encodings.
pub const MAX_SHORT_VARINT: usize = 5;

/// Maximum number of dimensions of a tensor. Image classifiers need four, attention five or six.
pub const MAX_RANK: usize = 16;

/// Supported IR versions: 3 introduced opset imports, 14 is what onnx 1.23 writes.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// Supported versions of the default opset: before 7, broadcasting and BatchNormalization had other semantics; 28 is
/// the latest in onnx 1.23. The operator table decides which versions of an operator are supported.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;
