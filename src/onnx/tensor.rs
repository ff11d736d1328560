//! Tensors of the file, decoded: ONNX's element types and their values.

use half::{bf16, f16};

/// TensorProto.DataType, by its ONNX name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    Float,
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    String,
    Bool,
    Float16,
    Double,
    Uint32,
    Uint64,
    Complex64,
    Complex128,
    Bfloat16,
    Float8E4M3Fn,
    Float8E4M3Fnuz,
    Float8E5M2,
    Float8E5M2Fnuz,
    Uint4,
    Int4,
    Float4E2M1,
    Float8E8M0,
    Uint2,
    Int2,
}

/// Number in onnx.proto, type, ONNX's name, bits of an element (0: not of fixed size, or not read).
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
    /// The type with this number in onnx.proto; None for UNDEFINED and for numbers that ONNX does not have yet.
    pub fn from_onnx(number: i32) -> Option<Self> {
        TYPES.iter().find(|t| t.0 == number).map(|t| t.1)
    }

    /// Its name in onnx.proto.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|t| t.1 == self).map_or("UNDEFINED", |t| t.2)
    }

    /// Bits of one element as stored in `raw_data`; None where elements have no fixed size.
    pub(super) fn bits(self) -> Option<usize> {
        TYPES.iter().find(|t| t.1 == self).map(|t| t.3).filter(|&bits| bits > 0)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor of the file, decoded: row-major, `dims.iter().product()` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<usize>,
    pub data: Data,
}

/// The values of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Data {
    Float(Vec<f32>),
    Double(Vec<f64>),
    Float16(Vec<f16>),
    Bfloat16(Vec<bf16>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Bool(Vec<bool>),
    /// The 8-bit floats and everything narrower: the type, and the values, which f32 holds exactly.
    Narrow(DataType, Vec<f32>),
}

impl Data {
    /// The element type as the file has it.
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

    /// How many elements.
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
    /// The first element that is NaN or infinite.
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
