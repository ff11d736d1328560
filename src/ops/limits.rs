//! The operators' limits, each with its reason. A file of a hundred bytes can ask for any amount of memory.

/// Maximum number of elements of a value, batch included: 2 GiB. VGG at 224x224 with batch 128 needs 411 million.
pub const VALUE: usize = 1 << 29;

/// Maximum number of elements of a folded constant: 256 MiB. Exporters leave shapes to fold, and rarely a table of a
/// few thousand numbers.
pub const CONSTANT: usize = 1 << 26;

/// Maximum rank; ONNX's own operators need five.
pub const RANK: usize = 8;

/// The newest opset of the default domain that the operators were checked against. A newer one may change their
/// meaning.
pub const NEWEST_OPSET: i64 = 28;

/// The oldest opset: before 7, broadcasting and BatchNormalization had other semantics.
pub const OLDEST_OPSET: i64 = 7;
