//! `.safetensors`: a JSON header, then the values of each tensor, little-endian and row-major.

use std::{path::Path, sync::Arc};

use safetensors::{Dtype, tensor::Metadata};

use super::{
    element::{Element, Kind},
    positioned::Positioned,
    tensor::{Member, Place, Tensor},
};
use crate::{Error, Result};

/// Bytes of the longest header: 100,000 tensors take about 10 MB.
const HEADER: u64 = 16 << 20;

/// The tensors of a file, by name.
///
/// # Errors
/// The file cannot be read, or its header is malformed.
pub fn members(path: &Path) -> Result<Vec<Member>> {
    let file = Arc::new(Positioned::open(path)?);
    let invalid = |problem: String| Error::images(path.display(), problem);
    let mut length = [0; 8];
    if file.len < 8 {
        return Err(invalid("is too short for a safetensors file".to_owned()));
    }
    file.read(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER || length > file.len - 8 {
        return Err(invalid(format!(
            "is no safetensors file: its header would be {length} bytes long, the file is {}",
            file.len
        )));
    }
    let mut header = vec![0; length as usize];
    file.read(8, &mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| invalid(format!("is no safetensors file: malformed header: {e}")))?;
    let start = 8 + length;
    let mut members: Vec<Member> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let tensor = element(info.dtype).and_then(|element| {
                let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
                let end = start.checked_add(to).filter(|&end| end <= file.len && from <= to);
                end.ok_or("lies outside the file")?;
                let (name, shape, place) = (name.clone(), info.shape.clone(), Place::At(start + from));
                Tensor { name, element, shape, fortran: false, place, file: file.clone() }.checked(to - from)
            });
            Member { name, tensor }
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

fn element(dtype: Dtype) -> Result<Element, String> {
    Ok(Element::little(match dtype {
        Dtype::U8 => Kind::U8,
        Dtype::U16 => Kind::U16,
        Dtype::U32 => Kind::U32,
        Dtype::U64 => Kind::U64,
        Dtype::I8 => Kind::I8,
        Dtype::I16 => Kind::I16,
        Dtype::I32 => Kind::I32,
        Dtype::I64 => Kind::I64,
        Dtype::F16 => Kind::F16,
        Dtype::BF16 => Kind::BF16,
        Dtype::F32 => Kind::F32,
        Dtype::F64 => Kind::F64,
        other => return Err(format!("holds values of the type {other:?}")),
    }))
}
