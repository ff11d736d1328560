//! Decoded tensors: ONNX's element types and their values.

use half::{bf16, f16};

/// TensorProto.DataType, by its ONNX name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    /// FLOAT: 32 bits.
    Float,
    /// UINT8: an integer of 8 bits, unsigned.
    Uint8,
    /// INT8: an integer of 8 bits, signed.
    Int8,
    /// UINT16: an integer of 16 bits, unsigned.
    Uint16,
    /// INT16: an integer of 16 bits, signed.
    Int16,
    /// INT32: an integer of 32 bits, signed.
    Int32,
    /// INT64: an integer of 64 bits, signed.
    Int64,
    /// STRING: bytes, in UTF-8 by convention.
    String,
    /// BOOL: one byte an element.
    Bool,
    /// FLOAT16: IEEE 754 half precision.
    Float16,
    /// DOUBLE: 64 bits.
    Double,
    /// UINT32: an integer of 32 bits, unsigned.
    Uint32,
    /// UINT64: an integer of 64 bits, unsigned.
    Uint64,
    /// COMPLEX64: two 32-bit floats.
    Complex64,
    /// COMPLEX128: two 64-bit floats.
    Complex128,
    /// BFLOAT16: the upper half of a 32-bit float.
    Bfloat16,
    /// FLOAT8E4M3FN: 8 bits, 4 of them exponent and 3 mantissa; no infinity.
    Float8E4M3Fn,
    /// FLOAT8E4M3FNUZ: 8 bits, 4 of them exponent and 3 mantissa; no infinity and no negative zero.
    Float8E4M3Fnuz,
    /// FLOAT8E5M2: 8 bits, 5 of them exponent and 2 mantissa.
    Float8E5M2,
    /// FLOAT8E5M2FNUZ: 8 bits, 5 of them exponent and 2 mantissa; no infinity and no negative zero.
    Float8E5M2Fnuz,
    /// UINT4: an integer of 4 bits, unsigned.
    Uint4,
    /// INT4: an integer of 4 bits, signed.
    Int4,
    /// FLOAT4E2M1: 4 bits, 2 of them exponent and 1 mantissa.
    Float4E2M1,
    /// FLOAT8E8M0: a power of two, without sign.
    Float8E8M0,
    /// UINT2: an integer of 2 bits, unsigned.
    Uint2,
    /// INT2: an integer of 2 bits, signed.
    Int2,
}

/// Number in onnx.proto, type, ONNX's name, bits of an element (0: no fixed size).
const TYPES: [(i32, DataType, &str, usize); 26] = [
    (1, DataType::Float, "FLOAT", 32),
    (2, DataType::Uint8, "UINT8", 8),
    (3, DataType::Int8, "INT8", 8),
    (4, DataType::Uint16, "UINT16", 16),
    (5, DataType::Int16, "INT16", 16),
    (6, DataType::Int32, "INT32", 32),
    (7, DataType::Int64, "INT64", 64),
    (8, DataType::String, "STRING", 0),
    (9, DataType::Bool, "BOOL", 8),
    (10, DataType::Float16, "FLOAT16", 16),
    (11, DataType::Double, "DOUBLE", 64),
    (12, DataType::Uint32, "UINT32", 32),
    (13, DataType::Uint64, "UINT64", 64),
    (14, DataType::Complex64, "COMPLEX64", 64),
    (15, DataType::Complex128, "COMPLEX128", 128),
    (16, DataType::Bfloat16, "BFLOAT16", 16),
    (17, DataType::Float8E4M3Fn, "FLOAT8E4M3FN", 8),
    (18, DataType::Float8E4M3Fnuz, "FLOAT8E4M3FNUZ", 8),
    (19, DataType::Float8E5M2, "FLOAT8E5M2", 8),
    (20, DataType::Float8E5M2Fnuz, "FLOAT8E5M2FNUZ", 8),
    (21, DataType::Uint4, "UINT4", 4),
    (22, DataType::Int4, "INT4", 4),
    (23, DataType::Float4E2M1, "FLOAT4E2M1", 4),
    (24, DataType::Float8E8M0, "FLOAT8E8M0", 8),
    (25, DataType::Uint2, "UINT2", 2),
    (26, DataType::Int2, "INT2", 2),
];

impl DataType {
    /// The type with this number in onnx.proto; None for UNDEFINED and unknown numbers.
    pub fn from_onnx(number: i32) -> Option<Self> {
        TYPES.iter().find(|t| t.0 == number).map(|t| t.1)
    }

    /// Its number in onnx.proto.
    pub fn to_onnx(self) -> i32 {
        TYPES.iter().find(|t| t.1 == self).map_or(0, |t| t.0)
    }

    /// Its name in onnx.proto.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|t| t.1 == self).map_or("UNDEFINED", |t| t.2)
    }

    /// Whether its elements are floating-point numbers of 16 bits or more.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Double | Self::Float16 | Self::Bfloat16)
    }

    /// Bits of one element in `raw_data`; None if elements have no fixed size.
    pub(super) fn bits(self) -> Option<usize> {
        TYPES.iter().find(|t| t.1 == self).map(|t| t.3).filter(|&bits| bits > 0)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A decoded tensor: row-major, `dims.iter().product()` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// `""` where it has none, as in most attributes.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub dims: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

/// The values of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Data {
    /// FLOAT.
    Float(Vec<f32>),
    /// DOUBLE.
    Double(Vec<f64>),
    /// FLOAT16.
    Float16(Vec<f16>),
    /// BFLOAT16.
    Bfloat16(Vec<bf16>),
    /// INT8.
    Int8(Vec<i8>),
    /// INT16.
    Int16(Vec<i16>),
    /// INT32.
    Int32(Vec<i32>),
    /// INT64.
    Int64(Vec<i64>),
    /// UINT8.
    Uint8(Vec<u8>),
    /// UINT16.
    Uint16(Vec<u16>),
    /// UINT32.
    Uint32(Vec<u32>),
    /// UINT64.
    Uint64(Vec<u64>),
    /// BOOL.
    Bool(Vec<bool>),
    /// 8-bit floats and narrower types: the type, and the values, which f32 represents exactly.
    Narrow(DataType, Vec<f32>),
}

impl Data {
    /// The element type in the file.
    pub fn data_type(&self) -> DataType {
        match self {
            Data::Float(_) => DataType::Float,
            Data::Double(_) => DataType::Double,
            Data::Float16(_) => DataType::Float16,
            Data::Bfloat16(_) => DataType::Bfloat16,
            Data::Int8(_) => DataType::Int8,
            Data::Int16(_) => DataType::Int16,
            Data::Int32(_) => DataType::Int32,
            Data::Int64(_) => DataType::Int64,
            Data::Uint8(_) => DataType::Uint8,
            Data::Uint16(_) => DataType::Uint16,
            Data::Uint32(_) => DataType::Uint32,
            Data::Uint64(_) => DataType::Uint64,
            Data::Bool(_) => DataType::Bool,
            Data::Narrow(data_type, _) => *data_type,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(v) | Data::Narrow(_, v) => v.len(),
            Data::Double(v) => v.len(),
            Data::Float16(v) => v.len(),
            Data::Bfloat16(v) => v.len(),
            Data::Int8(v) => v.len(),
            Data::Int16(v) => v.len(),
            Data::Int32(v) => v.len(),
            Data::Int64(v) => v.len(),
            Data::Uint8(v) => v.len(),
            Data::Uint16(v) => v.len(),
            Data::Uint32(v) => v.len(),
            Data::Uint64(v) => v.len(),
            Data::Bool(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tensor {
    /// Index of the first element that is NaN or infinite.
    pub fn non_finite(&self) -> Option<usize> {
        match &self.data {
            Data::Float(v) | Data::Narrow(_, v) => v.iter().position(|x| !x.is_finite()),
            Data::Double(v) => v.iter().position(|x| !x.is_finite()),
            Data::Float16(v) => v.iter().position(|x| !x.is_finite()),
            Data::Bfloat16(v) => v.iter().position(|x| !x.is_finite()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_values_are_found() {
        let tensor = |data| Tensor { name: String::new(), dims: vec![], data };
        assert_eq!(tensor(Data::Float(vec![1.0, f32::NAN])).non_finite(), Some(1));
        assert_eq!(tensor(Data::Float16(vec![f16::INFINITY])).non_finite(), Some(0));
        assert_eq!(tensor(Data::Int64(vec![1])).non_finite(), None);
    }
}
