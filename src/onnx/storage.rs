//! Decodes the values of a TensorProto from any of its storage fields. All forms are first converted to the
//! little-endian bytes of `raw_data`, whose length must match type and dims exactly.

use std::borrow::Cow;

use half::{bf16, f16};
use onnx_protobuf::TensorProto;

use super::{
    limits::MAX_RANK,
    tensor::{Data, DataType, Tensor},
};

/// A TensorProto without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub dims: Vec<usize>,
    pub data_type: DataType,
    /// Size of the values in bytes, in `raw_data` or external; None for strings.
    pub bytes: Option<usize>,
    /// The values are external data.
    pub external: bool,
}

/// Whether the values are external data.
pub(super) fn is_external(proto: &TensorProto) -> bool {
    proto.data_location.value() == 1
}

/// Checks a TensorProto without decoding it: at most one storage field, no overflow of the dims' product, a length that
/// matches them exactly. `raw`: whether `raw_data` is present, even if empty.
pub(super) fn layout(proto: &TensorProto, raw: bool) -> Result<Layout, String> {
    let dims = dims(proto)?;
    let count = dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    let count = count.ok_or_else(|| format!("the product of its dims {dims:?} overflows 64 bits"))?;
    let data_type = DataType::from_onnx(proto.data_type)
        .ok_or_else(|| format!("has the unknown data type {}", proto.data_type))?;
    let bytes = match data_type.bits() {
        Some(bits) => Some(
            count
                .checked_mul(bits)
                .ok_or_else(|| format!("the size of its dims {dims:?} overflows 64 bits"))?
                .div_ceil(8),
        ),
        None => None,
    };
    if proto.segment.is_some() {
        return Err("is one segment of a tensor; tensors in segments are not supported".into());
    }
    let filled = filled(proto, raw);
    if let [first, second, ..] = filled[..] {
        return Err(format!("has both {first} and {second}; runtimes disagree on which one counts"));
    }
    let external = is_external(proto);
    match (proto.data_location.value(), &filled[..]) {
        (0, _) if !proto.external_data.is_empty() => {
            return Err("has external_data, but its data_location is not EXTERNAL".into());
        }
        (0, []) if count > 0 => return Err(format!("has dims {dims:?}, but no data")),
        (0 | 1, []) => {}
        (0, [field]) => check_length(proto, data_type, field, count, bytes, &dims)?,
        (1, [field, ..]) => {
            return Err(format!("has both external data and {field}; runtimes disagree on which one counts"));
        }
        (other, _) => return Err(format!("has the unknown data_location {other}")),
    }
    Ok(Layout { dims, data_type, bytes, external })
}

fn dims(proto: &TensorProto) -> Result<Vec<usize>, String> {
    if proto.dims.len() > MAX_RANK {
        return Err(format!("has {} dims, more than {MAX_RANK}", proto.dims.len()));
    }
    let dims = proto.dims.iter().map(|&d| usize::try_from(d).ok());
    dims.collect::<Option<_>>().ok_or_else(|| format!("has a negative dimension: {:?}", proto.dims))
}

/// Names of the storage fields that are present.
fn filled(proto: &TensorProto, raw: bool) -> Vec<&'static str> {
    let all = [
        ("raw_data", raw),
        ("float_data", !proto.float_data.is_empty()),
        ("int32_data", !proto.int32_data.is_empty()),
        ("int64_data", !proto.int64_data.is_empty()),
        ("double_data", !proto.double_data.is_empty()),
        ("uint64_data", !proto.uint64_data.is_empty()),
        ("string_data", !proto.string_data.is_empty()),
    ];
    all.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

/// Checks the one storage field that is present against type and dims.
fn check_length(
    proto: &TensorProto,
    data_type: DataType,
    field: &str,
    count: usize,
    bytes: Option<usize>,
    dims: &[usize],
) -> Result<(), String> {
    if field == "raw_data" {
        let Some(bytes) = bytes else {
            return Err("has strings in raw_data, which ONNX does not allow".into());
        };
        let found = proto.raw_data.len();
        if found != bytes {
            return Err(format!(
                "has dims {dims:?} of {data_type}, {bytes} bytes, but {found} bytes of raw_data"
            ));
        }
        return Ok(());
    }
    let (expected, found) = match data_type {
        DataType::Float | DataType::Complex64 => ("float_data", proto.float_data.len()),
        DataType::Double | DataType::Complex128 => ("double_data", proto.double_data.len()),
        DataType::Int64 => ("int64_data", proto.int64_data.len()),
        DataType::Uint32 | DataType::Uint64 => ("uint64_data", proto.uint64_data.len()),
        DataType::String => ("string_data", proto.string_data.len()),
        _ => ("int32_data", proto.int32_data.len()),
    };
    if field != expected {
        return Err(format!(
            "has type {data_type}, which is stored in {expected} or raw_data, but has {field}"
        ));
    }
    let entries = match data_type {
        DataType::Complex64 | DataType::Complex128 => count.saturating_mul(2),
        // Two or four values are packed into one entry, as into a byte of raw_data.
        DataType::Uint4 | DataType::Int4 | DataType::Float4E2M1 => count.div_ceil(2),
        DataType::Uint2 | DataType::Int2 => count.div_ceil(4),
        _ => count,
    };
    if found != entries {
        return Err(format!("has dims {dims:?}, which need {entries} entries of {field}, but has {found}"));
    }
    Ok(())
}

/// Decodes a tensor whose [`layout`] was checked. `external`: its external data, if any.
pub(super) fn decode(
    proto: &TensorProto,
    layout: &Layout,
    external: Option<&[u8]>,
) -> Result<Tensor, String> {
    let data_type = layout.data_type;
    if matches!(data_type, DataType::String | DataType::Complex64 | DataType::Complex128) {
        return Err(format!("is of {data_type}, which is not supported"));
    }
    let bytes = match (layout.external, external) {
        (false, _) => stored_bytes(proto, data_type)?,
        (true, Some(bytes)) => Cow::Borrowed(bytes),
        (true, None) => return Err("has external data, which was not loaded".into()),
    };
    if Some(bytes.len()) != layout.bytes {
        let expected = layout.bytes.unwrap_or(0);
        return Err(format!("holds {} bytes of {data_type}, expected {expected}", bytes.len()));
    }
    let count = layout.dims.iter().product();
    let data = from_bytes(data_type, &bytes, count)?;
    Ok(Tensor { name: proto.name.clone(), dims: layout.dims.clone(), data })
}

/// The values in the format of `raw_data`.
fn stored_bytes(proto: &TensorProto, data_type: DataType) -> Result<Cow<'_, [u8]>, String> {
    if !proto.raw_data.is_empty() {
        return Ok(Cow::Borrowed(&proto.raw_data));
    }
    let narrow = |low: i32, high: i32, width: usize| {
        let mut bytes = Vec::with_capacity(proto.int32_data.len() * width);
        for &value in &proto.int32_data {
            if value < low || value > high {
                return Err(format!("is of {data_type}, but has {value} in int32_data"));
            }
            bytes.extend(value.to_le_bytes().iter().take(width));
        }
        Ok(bytes)
    };
    Ok(Cow::Owned(match data_type {
        DataType::Float => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Double => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Int64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Uint64 => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Uint32 => {
            let mut bytes = Vec::with_capacity(proto.uint64_data.len() * 4);
            for &value in &proto.uint64_data {
                let value = u32::try_from(value)
                    .map_err(|_| format!("is of UINT32, but has {value} in uint64_data"))?;
                bytes.extend(value.to_le_bytes());
            }
            bytes
        }
        DataType::Int32 => narrow(i32::MIN, i32::MAX, 4)?,
        DataType::Int16 => narrow(i16::MIN.into(), i16::MAX.into(), 2)?,
        DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => narrow(0, u16::MAX.into(), 2)?,
        DataType::Int8 => narrow(i8::MIN.into(), i8::MAX.into(), 1)?,
        DataType::Bool => narrow(0, 1, 1)?,
        DataType::String | DataType::Complex64 | DataType::Complex128 => Vec::new(),
        // A byte of packed signed values may be stored with or without sign extension.
        DataType::Int4 | DataType::Int2 => narrow(i8::MIN.into(), u8::MAX.into(), 1)?,
        _ => narrow(0, u8::MAX.into(), 1)?,
    }))
}

/// Little-endian numbers of `N` bytes each.
fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
}

fn from_bytes(data_type: DataType, bytes: &[u8], count: usize) -> Result<Data, String> {
    let packed = |bits: usize, value: fn(u8) -> f32| {
        let mask = ((1_u16 << bits) - 1) as u8;
        let per_byte = 8 / bits;
        let values = bytes.iter().flat_map(|&b| (0..per_byte).map(move |i| value((b >> (i * bits)) & mask)));
        Data::Narrow(data_type, values.take(count).collect())
    };
    Ok(match data_type {
        DataType::Float => Data::Float(numbers(bytes, f32::from_le_bytes)),
        DataType::Double => Data::Double(numbers(bytes, f64::from_le_bytes)),
        DataType::Float16 => Data::Float16(numbers(bytes, f16::from_le_bytes)),
        DataType::Bfloat16 => Data::Bfloat16(numbers(bytes, bf16::from_le_bytes)),
        DataType::Int8 => Data::Int8(numbers(bytes, i8::from_le_bytes)),
        DataType::Int16 => Data::Int16(numbers(bytes, i16::from_le_bytes)),
        DataType::Int32 => Data::Int32(numbers(bytes, i32::from_le_bytes)),
        DataType::Int64 => Data::Int64(numbers(bytes, i64::from_le_bytes)),
        DataType::Uint8 => Data::Uint8(bytes.to_vec()),
        DataType::Uint16 => Data::Uint16(numbers(bytes, u16::from_le_bytes)),
        DataType::Uint32 => Data::Uint32(numbers(bytes, u32::from_le_bytes)),
        DataType::Uint64 => Data::Uint64(numbers(bytes, u64::from_le_bytes)),
        DataType::Bool => match bytes.iter().find(|&&b| b > 1) {
            Some(other) => return Err(format!("is of BOOL, but has a byte of {other}")),
            None => Data::Bool(bytes.iter().map(|&b| b == 1).collect()),
        },
        DataType::Float8E4M3Fn => {
            packed(8, |b| if b & 0x7f == 0x7f { f32::NAN } else { small_float(b, 3, 7) })
        }
        DataType::Float8E4M3Fnuz => packed(8, |b| if b == 0x80 { f32::NAN } else { small_float(b, 3, 8) }),
        DataType::Float8E5M2 => packed(8, |b| match b & 0x7f {
            0x7c if b & 0x80 == 0 => f32::INFINITY,
            0x7c => f32::NEG_INFINITY,
            0x7d.. => f32::NAN,
            _ => small_float(b, 2, 15),
        }),
        DataType::Float8E5M2Fnuz => packed(8, |b| if b == 0x80 { f32::NAN } else { small_float(b, 2, 16) }),
        DataType::Float8E8M0 => packed(8, |b| match b {
            0xff => f32::NAN,
            _ => 2.0_f64.powi(i32::from(b) - 127) as f32,
        }),
        DataType::Uint4 | DataType::Uint2 => packed(data_type.bits().unwrap_or(4), f32::from),
        DataType::Int4 => packed(4, |b| f32::from(((b << 4) as i8) >> 4)),
        DataType::Int2 => packed(2, |b| f32::from(((b << 6) as i8) >> 6)),
        DataType::Float4E2M1 => packed(4, |b| {
            let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(b & 7)];
            if b & 8 == 0 { size } else { -size }
        }),
        DataType::String | DataType::Complex64 | DataType::Complex128 => {
            return Err(format!("is of {data_type}, which is not supported"));
        }
    })
}

/// An 8-bit float: sign, exponent with this bias, `mantissa` bits. The caller handles NaN and infinity.
fn small_float(bits: u8, mantissa: u32, bias: i32) -> f32 {
    let fraction = f32::from(bits & ((1 << mantissa) - 1)) / (1_u32 << mantissa) as f32;
    let exponent = i32::from((bits & 0x7f) >> mantissa);
    let size = if exponent == 0 {
        fraction * 2.0_f32.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2.0_f32.powi(exponent - bias)
    };
    if bits & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(proto: &TensorProto) -> Result<Data, String> {
        let layout = layout(proto, !proto.raw_data.is_empty())?;
        decode(proto, &layout, None).map(|t| t.data)
    }

    fn narrow(number: i32, bytes: &[u8], count: i64) -> Vec<f32> {
        let proto = TensorProto {
            data_type: number,
            dims: vec![count],
            raw_data: bytes.to_vec(),
            ..Default::default()
        };
        match decoded(&proto).unwrap() {
            Data::Narrow(_, values) => values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn raw_and_typed_agree() {
        let raw = TensorProto {
            data_type: 10,
            dims: vec![2],
            raw_data: vec![0x00, 0x3c, 0x00, 0xc0],
            ..Default::default()
        };
        let typed = TensorProto {
            data_type: 10,
            dims: vec![2],
            int32_data: vec![0x3c00, 0xc000],
            ..Default::default()
        };
        assert_eq!(decoded(&raw).unwrap(), Data::Float16(vec![f16::ONE, f16::from_f32(-2.0)]));
        assert_eq!(decoded(&raw).unwrap(), decoded(&typed).unwrap());
        let int8 =
            TensorProto { data_type: 3, dims: vec![2], int32_data: vec![-128, 5], ..Default::default() };
        assert_eq!(decoded(&int8).unwrap(), Data::Int8(vec![-128, 5]));
        let uint32 = TensorProto {
            data_type: 12,
            dims: vec![1],
            uint64_data: vec![u32::MAX.into()],
            ..Default::default()
        };
        assert_eq!(decoded(&uint32).unwrap(), Data::Uint32(vec![u32::MAX]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            (
                TensorProto { data_type: 1, dims: vec![3], raw_data: vec![0; 8], ..Default::default() },
                "8 bytes",
            ),
            (
                TensorProto {
                    data_type: 1,
                    dims: vec![1],
                    raw_data: vec![0; 4],
                    float_data: vec![1.0],
                    ..Default::default()
                },
                "has both raw_data and float_data",
            ),
            (TensorProto { data_type: 1, dims: vec![-1], ..Default::default() }, "negative"),
            (
                TensorProto { data_type: 1, dims: vec![1 << 40, 1 << 40], ..Default::default() },
                "overflows 64 bits",
            ),
            (TensorProto { data_type: 1, dims: vec![2], ..Default::default() }, "no data"),
            (TensorProto { data_type: 3, dims: vec![1], int32_data: vec![300], ..Default::default() }, "300"),
            (
                TensorProto { data_type: 1, dims: vec![1], int32_data: vec![3], ..Default::default() },
                "float_data",
            ),
            (TensorProto { data_type: 9, dims: vec![1], raw_data: vec![2], ..Default::default() }, "BOOL"),
            (TensorProto { data_type: 77, dims: vec![1], ..Default::default() }, "unknown data type 77"),
            (
                TensorProto { data_type: 8, dims: vec![1], string_data: vec![vec![]], ..Default::default() },
                "STRING",
            ),
        ];
        for (proto, expected) in cases {
            let error = decoded(&proto).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }

    #[test]
    fn no_dims_is_one_element_and_a_zero_dim_is_none() {
        let scalar = TensorProto { data_type: 1, float_data: vec![2.5], ..Default::default() };
        assert_eq!(decoded(&scalar).unwrap(), Data::Float(vec![2.5]));
        let empty = TensorProto { data_type: 7, dims: vec![0], ..Default::default() };
        assert_eq!(decoded(&empty).unwrap(), Data::Int64(vec![]));
    }

    #[test]
    fn narrow_types() {
        assert_eq!(narrow(17, &[0x38, 0x7e, 0x01, 0xb8], 4), [1.0, 448.0, 2.0_f32.powi(-9), -1.0]);
        assert_eq!(narrow(18, &[0x40, 0x7f, 0x01], 3), [1.0, 240.0, 2.0_f32.powi(-10)]);
        assert_eq!(narrow(19, &[0x3c, 0x7b, 0xfc], 3), [1.0, 57344.0, f32::NEG_INFINITY]);
        assert_eq!(narrow(20, &[0x40, 0x7f, 0x01], 3), [1.0, 57344.0, 2.0_f32.powi(-17)]);
        assert_eq!(narrow(24, &[127, 128, 0], 3), [1.0, 2.0, 2.0_f32.powi(-127)]);
        assert!(
            [(17, 0x7f), (17, 0xff), (18, 0x80), (19, 0x7d), (20, 0x80), (24, 0xff)]
                .iter()
                .all(|&(number, byte)| narrow(number, &[byte], 1)[0].is_nan())
        );
        // the first value in the lower bits
        assert_eq!(narrow(21, &[0xf1, 0x02], 3), [1.0, 15.0, 2.0]);
        assert_eq!(narrow(22, &[0xf1, 0x08], 3), [1.0, -1.0, -8.0]);
        assert_eq!(narrow(23, &[0xf7], 2), [6.0, -6.0]);
        assert_eq!(narrow(25, &[0b11_10_01_00], 4), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(narrow(26, &[0b11_10_01_00], 3), [0.0, 1.0, -2.0]);
    }
}
