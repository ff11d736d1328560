//! [`Element`]: the number types of arrays.

use half::{bf16, f16};

/// Number type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

/// One element: its type and the order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub kind: Kind,
    /// Big-endian.
    pub big: bool,
}

impl Element {
    /// Little-endian.
    pub fn little(kind: Kind) -> Self {
        Self { kind, big: false }
    }

    /// Bytes.
    pub fn size(self) -> usize {
        match self.kind {
            Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 | Kind::F16 | Kind::BF16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self.kind, Kind::F16 | Kind::BF16 | Kind::F32 | Kind::F64)
    }

    /// Calls `each` with every value of `bytes`. 64-bit integers are rounded to the nearest float: only their small
    /// values matter.
    pub fn each(self, bytes: &[u8], mut each: impl FnMut(f64)) {
        macro_rules! values {
            ($type:ty, $float:expr) => {
                for bytes in bytes.as_chunks::<{ size_of::<$type>() }>().0 {
                    let value = if self.big {
                        <$type>::from_be_bytes(*bytes)
                    } else {
                        <$type>::from_le_bytes(*bytes)
                    };
                    each($float(value));
                }
            };
        }
        match self.kind {
            Kind::U8 => values!(u8, f64::from),
            Kind::U16 => values!(u16, f64::from),
            Kind::U32 => values!(u32, f64::from),
            Kind::U64 => values!(u64, |v| v as f64),
            Kind::I8 => values!(i8, f64::from),
            Kind::I16 => values!(i16, f64::from),
            Kind::I32 => values!(i32, f64::from),
            Kind::I64 => values!(i64, |v| v as f64),
            Kind::F16 => values!(f16, f64::from),
            Kind::BF16 => values!(bf16, f64::from),
            Kind::F32 => values!(f32, f64::from),
            Kind::F64 => values!(f64, f64::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(kind: Kind, big: bool, bytes: &[u8]) -> Vec<f64> {
        let mut out = Vec::new();
        Element { kind, big }.each(bytes, |v| out.push(v));
        out
    }

    #[test]
    fn values_of_either_byte_order() {
        assert_eq!(values(Kind::U8, true, &[0, 255]), [0.0, 255.0]);
        assert_eq!(values(Kind::I16, false, &[0xff, 0xff, 1, 0]), [-1.0, 1.0]);
        assert_eq!(values(Kind::I16, true, &[0xff, 0xff, 0, 1]), [-1.0, 1.0]);
        assert_eq!(values(Kind::F16, true, &f16::from_f32(0.5).to_be_bytes()), [0.5]);
        assert_eq!(values(Kind::F64, false, &0.1f64.to_le_bytes()), [0.1]);
        assert_eq!(values(Kind::U32, false, &[1, 0, 0, 0, 9]), [1.0]); // a rest is no value
    }
}
