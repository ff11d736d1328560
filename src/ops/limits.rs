//! The operators' limits, each with its reason. A file of a hundred bytes can ask for any amount of memory.

/// Most elements of a value that depends on the image, batch included: 2 GiB. VGG at 224x224 and batch 128 has 411
/// million.
pub const VALUE: usize = 1 << 29;

/// Most elements of a value that constants alone give: 256 MiB. What exporters leave to be computed are shapes, and
/// now and then a table of a few thousand numbers.
pub const CONSTANT: usize = 1 << 26;

/// Most dimensions of a value: ONNX's own operators need five.
pub const RANK: usize = 8;

/// The newest opset of the default domain whose operators were compared with the list in this folder. A newer one may
/// mean something else by the same names.
pub const NEWEST_OPSET: i64 = 28;

/// The oldest one: before opset 7 broadcasting and BatchNormalization meant something else.
pub const OLDEST_OPSET: i64 = 7;
