//! Every limit on what is read from a file, each with its reason. A file beyond one is refused by name; none of
//! them is near what an image classifier needs.

/// Bytes of a file, and of what is written: protobuf readers measure a message in a signed 32-bit integer.
pub const MAX_FILE: usize = (1 << 31) - 1;

/// Messages inside each other. protobuf readers stop at 100; one `If` costs three levels, a classifier needs ten.
pub const MAX_DEPTH: usize = 64;

/// Messages of a file, at about 40 bytes of memory each. The largest classifiers of PyTorch's exporters have some
/// ten thousand.
pub const MAX_MESSAGES: usize = 1 << 20;

/// Bytes of the encoding of a tag or a length. Both are 32-bit numbers; longer paddings of the same number are read
/// by some readers and refused by others.
pub const MAX_SHORT_VARINT: usize = 5;

/// Dimensions of a tensor. Image classifiers need four, attention five or six.
pub const MAX_RANK: usize = 16;

/// IR versions: 3 is the first with opsets as they are now, 14 what onnx 1.23 writes.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// Versions of the default operator set: before 7, broadcasting and BatchNormalization meant something else; 28 is
/// what onnx 1.23 knows. Whether an operator is known at a version is for the operator table to say.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;
