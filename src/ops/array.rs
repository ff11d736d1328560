//! A value during a run: a candle tensor with a known memory layout, so that kernels can read it as one slice. Rank
//! 4, (N, C, H, W), is channels-last: one (N, H, W, C) block seen through a permutation. Other ranks are row-major.
//! Memory allocated in a run and never handed out returns to the buffer pool with its last reader.

use std::{ops::Deref, sync::Arc, sync::atomic::AtomicBool, sync::atomic::Ordering::Relaxed};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, InplaceOp2, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;

pub use crate::kernels::backend::canonical;
use crate::kernels::buffers;
use crate::{Error, Result};

/// A tensor in this module's layout. Clones are cheap and share the memory.
#[derive(Clone, Debug)]
pub struct Array(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tensor: Tensor,
    /// The memory was allocated by this crate, and only this `Inner` refers to it.
    ours: AtomicBool,
    /// The array whose memory this one views in another shape.
    base: Option<Array>,
}

/// Takes the vector out of a tensor's storage, leaving an empty one.
struct Steal(std::cell::RefCell<Vec<f32>>);

impl InplaceOp1 for Steal {
    fn name(&self) -> &'static str {
        "steal"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        if let CpuStorage::F32(data) = storage {
            *self.0.borrow_mut() = std::mem::take(data);
        }
        Ok(())
    }
}

fn steal(tensor: &Tensor) -> Vec<f32> {
    let thief = Steal(Default::default());
    // On an error the vector stays where it is and is freed with its tensor.
    let _ = tensor.inplace_op1(&thief);
    thief.0.into_inner()
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.ours.get_mut() {
            buffers::give(steal(&self.tensor));
        }
    }
}

/// The value in the order of its memory, (N, H, W, C) for rank 4, and the position of `axis` in that order. No copy.
pub fn in_memory(t: &Tensor, axis: usize) -> Result<(Tensor, usize)> {
    Ok(match (t.rank(), t.dtype()) {
        (4, DType::F32) => (t.permute((0, 2, 3, 1))?, [0, 3, 1, 2][axis]),
        _ => (t.clone(), axis),
    })
}

/// The inverse of [`in_memory`].
pub fn from_memory(t: &Tensor) -> Result<Tensor> {
    Ok(match (t.rank(), t.dtype()) {
        (4, DType::F32) => t.permute((0, 3, 1, 2))?,
        _ => t.clone(),
    })
}

/// `tensor` on `device`, in this module's layout; no copy if it is on that device already.
pub fn to_device(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    if tensor.device().same_device(device) {
        return canonical(tensor);
    }
    Ok(if tensor.rank() == 4 {
        tensor.permute((0, 2, 3, 1))?.contiguous()?.to_device(device)?.permute((0, 3, 1, 2))?
    } else {
        tensor.contiguous()?.to_device(device)?
    })
}

/// Zeros of `shape` on `device`, in this module's layout.
pub fn zeros(shape: &[usize], device: &Device) -> Result<Tensor> {
    Ok(match *shape {
        [n, c, h, w] => Tensor::zeros((n, h, w, c), DType::F32, device)?.permute((0, 3, 1, 2))?,
        _ => Tensor::zeros(shape, DType::F32, device)?,
    })
}

/// Adds a (C) vector to every row of an (N, C) matrix; other shapes fall back to candle's `broadcast_add`.
pub fn add_columns(rows: &Tensor, more: &Tensor) -> Result<Tensor> {
    if let Some(gpu) = crate::kernels::gpu::Gpu::of(rows.device())?
        && rows.rank() == 2
        && more.elem_count() == rows.dims()[1]
        && more.dims().last() == rows.dims().last()
    {
        let pass = crate::kernels::gpu::PointwisePass { shift: Some(more), ..Default::default() };
        return Ok(gpu.pass(rows, pass, false)?.0);
    }
    Ok(rows.broadcast_add(more)?)
}

/// [`add_columns`] for a fresh matrix without other readers: on the processor it is overwritten.
pub fn add_columns_onto(rows: Tensor, more: &Tensor) -> Result<Tensor> {
    let fits = rows.rank() == 2 && more.dims() == &rows.dims()[1..] && rows.elem_count() > 0;
    let plain = [&rows, more].iter().all(|t| t.dtype() == DType::F32 && t.is_contiguous());
    if !(fits && plain && rows.device().is_cpu() && more.device().is_cpu()) {
        return add_columns(&rows, more);
    }
    rows.inplace_op2(more, &AddColumns)?;
    Ok(rows)
}

/// candle's own addition uses a thread pool of its own, which competes with ours by busy-waiting.
struct AddColumns;

impl InplaceOp2 for AddColumns {
    fn name(&self) -> &'static str {
        "add-columns"
    }

    fn cpu_fwd(
        &self,
        rows: &mut CpuStorage,
        layout: &Layout,
        more: &CpuStorage,
        of_more: &Layout,
    ) -> candle_core::Result<()> {
        /// Elements per parallel chunk.
        const PART: usize = 16 * 1024;
        let (CpuStorage::F32(rows), CpuStorage::F32(more)) = (rows, more) else { return Ok(()) };
        let (Some((start, end)), Some(of)) = (layout.contiguous_offsets(), of_more.contiguous_offsets())
        else {
            candle_core::bail!("sums by column of values that do not lie one after the other")
        };
        let more = &more[of.0..of.1];
        rows[start..end].par_chunks_mut(PART.div_ceil(more.len()) * more.len()).for_each(|part| {
            for row in part.chunks_exact_mut(more.len()) {
                row.iter_mut().zip(more).for_each(|(v, more)| *v += more);
            }
        });
        Ok(())
    }
}

/// A tensor of `shape` that owns `data`: rank 4 as (N, H, W, C), other ranks row-major.
pub fn from_channels_last(data: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Ok(match *shape {
        [n, c, h, w] => Tensor::from_vec(data, (n, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?,
        _ => Tensor::from_vec(data, shape, &Device::Cpu)?,
    })
}

impl Array {
    /// An array of `shape` that owns `data`: rank 4 as (N, H, W, C), other ranks row-major. `data` must come from the
    /// buffer pool, to which it returns.
    pub fn new(data: Vec<f32>, shape: &[usize]) -> Result<Self> {
        let tensor = from_channels_last(data, shape)?;
        Ok(Self(Arc::new(Inner { tensor, ours: AtomicBool::new(true), base: None })))
    }

    /// An array of a tensor from outside or a fresh one of candle's; copied only if its layout differs. For a tensor
    /// that may share another array's memory use [`Array::derive`], which keeps that memory alive.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let tensor = canonical(tensor)?;
        Ok(Self(Arc::new(Inner { tensor, ours: AtomicBool::new(false), base: None })))
    }

    /// An array of a `tensor` that may share this array's memory, which it keeps alive.
    pub fn derive(&self, tensor: &Tensor) -> Result<Self> {
        let mut derived = Self::from_tensor(tensor)?;
        let shared = match (self.read(), derived.read()) {
            (Ok(own), Ok(other)) => own.as_ptr_range().contains(&other.as_ptr()),
            _ => true,
        };
        if shared && let Some(inner) = Arc::get_mut(&mut derived.0) {
            inner.base = Some(self.clone());
        }
        Ok(derived)
    }

    /// The value as a candle tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.0.tensor
    }

    /// The GPU that holds the value; None for the processor.
    pub fn gpu(&self) -> Result<Option<Arc<crate::kernels::gpu::Gpu>>> {
        crate::kernels::gpu::Gpu::of(self.0.tensor.device())
    }

    /// Blocks until a GPU has computed the value, for timing.
    pub fn wait(&self) -> Result<()> {
        Ok(self.0.tensor.device().synchronize()?)
    }

    /// Logical shape.
    pub fn dims(&self) -> &[usize] {
        self.0.tensor.dims()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.tensor.elem_count()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in the order of memory.
    ///
    /// # Errors
    /// Not float32, or not in the processor's memory.
    pub fn read(&self) -> Result<Elements<'_>> {
        let (guard, layout) = self.0.tensor.storage_and_layout();
        let range = layout.start_offset()..layout.start_offset() + self.len();
        match &*guard {
            Storage::Cpu(CpuStorage::F32(data)) if data.len() >= range.end => Ok(Elements { guard, range }),
            _ => Err(Error::internal(format!(
                "a value of {:?} where float32 was expected",
                self.0.tensor.dtype()
            ))),
        }
    }

    /// The tensor, for callers outside the graph: its memory is not reused.
    pub fn into_tensor(self) -> Tensor {
        self.release();
        self.0.tensor.clone()
    }

    fn release(&self) {
        self.0.ours.store(false, Relaxed);
        if let Some(base) = &self.0.base {
            base.release();
        }
    }

    /// The elements in the order of memory, to be overwritten: the array's own memory if it has no other reader, else
    /// a copy.
    pub fn into_vec(self) -> Result<Vec<f32>> {
        match Arc::try_unwrap(self.0) {
            Ok(inner) if inner.ours.load(Relaxed) => {
                inner.ours.store(false, Relaxed);
                Ok(steal(&inner.tensor))
            }
            Ok(inner) => copy(&Self(Arc::new(inner))),
            Err(shared) => copy(&Self(shared)),
        }
    }

    /// Rows `rows` of dimension 0, in that order.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let rows: Vec<(usize, usize)> = rows.iter().map(|&row| (0, row)).collect();
        Self::gather(std::slice::from_ref(self), &rows)
    }

    /// Rows of several arrays whose shapes differ in dimension 0 alone. `rows`: (index in `parts`, row of that
    /// array).
    pub fn gather(parts: &[Array], rows: &[(usize, usize)]) -> Result<Self> {
        let mut shape = parts.first().map(|p| p.dims().to_vec()).unwrap_or_default();
        if shape.is_empty() || parts.iter().any(|p| p.dims().get(1..) != shape.get(1..)) {
            return Err(Error::internal("rows of different shapes, or of a scalar"));
        }
        if let Some(gpu) = parts.first().map(Array::gpu).transpose()?.flatten() {
            let parts: Vec<&Tensor> = parts.iter().map(Array::tensor).collect();
            return Self::from_tensor(&gpu.gather(&parts, rows)?);
        }
        shape[0] = rows.len();
        let row = shape[1..].iter().product::<usize>();
        let from = parts.iter().map(Array::read).collect::<Result<Vec<_>>>()?;
        let mut data = buffers::take(rows.len() * row);
        for (to, &(part, i)) in data.chunks_exact_mut(row.max(1)).zip(rows) {
            to.copy_from_slice(&from[part][i * row..(i + 1) * row]);
        }
        drop(from);
        Self::new(data, &shape)
    }

    /// Maps the elements: in place, `f(None, data)`, if there is no other reader, else into new memory,
    /// `f(Some(from), to)`.
    pub fn map(self, f: impl FnOnce(Option<&[f32]>, &mut [f32])) -> Result<Self> {
        let shape = self.dims().to_vec();
        if self.is_alone() {
            let mut data = self.into_vec()?;
            f(None, &mut data);
            return Self::new(data, &shape);
        }
        let mut data = buffers::take(self.len());
        f(Some(&self.read()?), &mut data);
        Self::new(data, &shape)
    }

    /// Whether the memory may be overwritten: allocated by this crate, no other reader.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && self.0.ours.load(Relaxed)
    }

    /// Size of the elements in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.0.tensor.dtype().size_in_bytes()
    }
}

fn copy(array: &Array) -> Result<Vec<f32>> {
    let mut data = buffers::take(array.len());
    data.copy_from_slice(&array.read()?);
    Ok(data)
}

/// Borrowed elements of an [`Array`].
pub struct Elements<'a> {
    guard: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.range.clone()],
            _ => &[], // ruled out by `Array::read`
        }
    }
}
