//! A convolution, forward or backward, as an execution plan of cuDNN's backend API: found once, then run with
//! addresses. This costs less processor time than the legacy API (`cudnnConvolutionForward`), and small networks wait
//! for the processor.

use std::{
    ffi::c_void,
    ptr::{null_mut, without_provenance_mut},
};

use candle_core::cuda_backend::cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind,
};

use super::refused;
use crate::{Error, Result, kernels::Precision};

/// Required alignment of values, in bytes.
pub const ALIGNMENT: usize = 16;
/// Ids of the tensors x, w, y in a plan.
const NAMES: [i64; 3] = [1, 2, 3];

/// The convolution: logical shapes, (N, C, H, W) and (O, C / groups, kh, kw), channels-last in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    pub x: [usize; 4],
    pub w: [usize; 4],
    pub y: [usize; 4],
    pub pads: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
}

/// A plan and the descriptors it refers to.
pub struct ExecutionPlan {
    plan: BackendDescriptor,
    pub workspace: usize,
    /// Read when the plan runs.
    _parts: Vec<BackendDescriptor>,
}

struct BackendDescriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: plain memory that only its plan refers to.
unsafe impl Send for BackendDescriptor {}
// SAFETY: a finalized plan is only read; `ExecutionPlan::run` is called with the handle's mutex held.
unsafe impl Sync for BackendDescriptor {}

impl Drop for BackendDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `BackendDescriptor::new`, and not destroyed before.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

impl BackendDescriptor {
    fn new(kind: Kind) -> Result<Self> {
        let mut made = null_mut();
        // SAFETY: there is room for one descriptor.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut made) }
            .result()
            .map_err(refused("cuDNN: a descriptor"))?;
        Ok(Self(made))
    }

    /// Sets an attribute; the type of `values` must match `kind`.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<()> {
        // SAFETY: the count is that of `values`.
        unsafe {
            sys::cudnnBackendSetAttribute(self.0, name, kind, values.len() as i64, values.as_ptr().cast())
        }
        .result()
        .map_err(refused("cuDNN: an attribute"))
    }

    fn set_numbers(&self, name: Name, values: &[usize]) -> Result<()> {
        let values: Vec<i64> = values.iter().map(|v| *v as i64).collect();
        self.set(name, Type::CUDNN_TYPE_INT64, &values)
    }

    fn set_part(&self, name: Name, part: &Self) -> Result<()> {
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[part.0])
    }

    fn finalize(self) -> Result<Self> {
        // SAFETY: alive.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result().map_err(refused("cuDNN: finalizing"))?;
        Ok(self)
    }

    /// Reads an attribute into `room`; returns the number of values.
    fn get<T>(&self, name: Name, kind: Type, room: &mut [T]) -> Result<usize> {
        let mut count = 0i64;
        // SAFETY: the count is that of `room`.
        unsafe {
            sys::cudnnBackendGetAttribute(
                self.0,
                name,
                kind,
                room.len() as i64,
                &raw mut count,
                if room.is_empty() { null_mut() } else { room.as_mut_ptr().cast() },
            )
        }
        .result()
        .map_err(refused("cuDNN: reading an attribute"))?;
        Ok(count.max(0) as usize)
    }

    /// A tensor descriptor with channels-last strides.
    fn value(name: i64, [n, c, h, w]: [usize; 4], kind: sys::cudnnDataType_t) -> Result<Self> {
        let this = Self::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        this.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[kind])?;
        this.set_numbers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?;
        this.set_numbers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?;
        this.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[name])?;
        this.set_numbers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT])?;
        this.finalize()
    }
}

impl ExecutionPlan {
    /// The plan that cuDNN's heuristics rank first among those that are deterministic, need no run-time compilation
    /// and at most
    /// `most` bytes of workspace, and compute in the given precision.
    ///
    /// # Errors
    /// cuDNN errors; no such plan.
    pub fn new(
        handle: sys::cudnnHandle_t,
        shape: &ConvShape,
        back: bool,
        precision: Precision,
        most: usize,
    ) -> Result<Self> {
        let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        let kind =
            if precision == Precision::Bf16 { sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16 } else { float };
        let [x, w, y] = [(NAMES[0], shape.x), (NAMES[1], shape.w), (NAMES[2], shape.y)]
            .map(|(name, dims)| BackendDescriptor::value(name, dims, kind));
        let (x, w, y) = (x?, w?, y?);

        let conv = BackendDescriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
        conv.set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[float])?;
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        conv.set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Type::CUDNN_TYPE_CONVOLUTION_MODE, &[mode])?;
        conv.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?;
        conv.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &shape.pads)?;
        conv.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &shape.pads)?;
        conv.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &shape.stride)?;
        conv.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &shape.dilation)?;
        let conv = conv.finalize()?;

        let operation = operation(back, [&x, &w, &y], &conv)?;
        let graph = BackendDescriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.set_part(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operation)?;
        graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
        let graph = graph.finalize()?;

        let modes = [
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A,
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK,
        ];
        for mode in modes {
            let (heuristics, found) = configurations(&graph, mode)?;
            for configuration in found {
                if !is_suitable(&configuration, precision)? {
                    continue;
                }
                let plan = BackendDescriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
                plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?;
                plan.set_part(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &configuration)?;
                // unsuitable engines fail here
                let Ok(plan) = plan.finalize() else { continue };
                let mut bytes = [0i64];
                plan.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Type::CUDNN_TYPE_INT64, &mut bytes)?;
                let workspace = bytes[0].max(0) as usize;
                if workspace <= most {
                    let parts = vec![configuration, heuristics, graph, operation, conv, x, w, y];
                    return Ok(Self { plan, workspace, _parts: parts });
                }
            }
        }
        Err(Error::internal(format!("cuDNN has no deterministic plan for a convolution: {shape:?}")))
    }

    /// Queues the convolution, given the addresses of x, w and y and of a workspace of the plan's size.
    ///
    /// # Errors
    /// cuDNN errors.
    ///
    /// # Safety
    /// The addresses are of values with the plan's shapes, in memory that lives until the stream has run this.
    pub unsafe fn run(&self, handle: sys::cudnnHandle_t, values: [u64; 3], workspace: u64) -> Result<()> {
        let pointer = |address: u64| without_provenance_mut::<c_void>(address as usize);
        let pack = BackendDescriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Type::CUDNN_TYPE_INT64, &NAMES)?;
        let values = values.map(pointer);
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Type::CUDNN_TYPE_VOID_PTR, &values)?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Type::CUDNN_TYPE_VOID_PTR, &[pointer(workspace)])?;
        let pack = pack.finalize()?;
        // SAFETY: plan and pack are alive; the caller vouches for the rest.
        unsafe { sys::cudnnBackendExecute(handle, self.plan.0, pack.0) }
            .result()
            .map_err(refused("cuDNN: a convolution"))
    }
}

/// y from x, or with `back` the gradient of x from that of y.
fn operation(
    back: bool,
    [x, w, y]: [&BackendDescriptor; 3],
    conv: &BackendDescriptor,
) -> Result<BackendDescriptor> {
    let kind = if back {
        Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
    } else {
        Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR
    };
    let [to_x, to_w, to_y, to_conv, alpha, beta] = if back {
        [
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
        ]
    } else {
        [
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
        ]
    };
    let this = BackendDescriptor::new(kind)?;
    this.set_part(to_conv, conv)?;
    [(to_x, x), (to_w, w), (to_y, y)].into_iter().try_for_each(|(name, part)| this.set_part(name, part))?;
    this.set(alpha, Type::CUDNN_TYPE_FLOAT, &[1f32])?;
    this.set(beta, Type::CUDNN_TYPE_FLOAT, &[0f32])?;
    this.finalize()
}

/// The heuristics' configurations, the fastest first, and the heuristics' own descriptor.
fn configurations(
    graph: &BackendDescriptor,
    mode: sys::cudnnBackendHeurMode_t,
) -> Result<(BackendDescriptor, Vec<BackendDescriptor>)> {
    let heuristics = BackendDescriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.set_part(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?;
    heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?;
    let heuristics = heuristics.finalize()?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
    let count = heuristics.get::<sys::cudnnBackendDescriptor_t>(name, kind, &mut [])?;
    let mut found = (0..count)
        .map(|_| BackendDescriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
        .collect::<Result<Vec<_>>>()?;
    let mut places: Vec<sys::cudnnBackendDescriptor_t> = found.iter().map(|d| d.0).collect();
    if count > 0 {
        let filled = heuristics.get(name, kind, &mut places)?;
        found.truncate(filled);
    }
    Ok((heuristics, found))
}

/// Whether the engine is deterministic, needs no run-time compilation and computes in the given precision.
fn is_suitable(configuration: &BackendDescriptor, precision: Precision) -> Result<bool> {
    let engine = BackendDescriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let mut place = [engine.0];
    configuration.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut place)?;
    // as plain numbers: a newer library may have notes that are not in this enum
    let notes = |name: Name, kind: Type, most: u32| -> Result<Vec<u32>> {
        let mut room = vec![u32::MAX; most as usize];
        let count = engine.get(name, kind, &mut room)?;
        room.truncate(count);
        Ok(room)
    };
    use sys::{cudnnBackendBehaviorNote_t as Behaviour, cudnnBackendNumericalNote_t as Note};
    let numerical = notes(
        Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
        Type::CUDNN_TYPE_NUMERICAL_NOTE,
        Note::CUDNN_NUMERICAL_NOTE_TYPE_COUNT as u32,
    )?;
    let behaviour = notes(
        Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
        Type::CUDNN_TYPE_BEHAVIOR_NOTE,
        Behaviour::CUDNN_BEHAVIOR_NOTE_TYPE_COUNT as u32,
    )?;
    let compiled = Behaviour::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as u32;
    let mut unwanted = vec![Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC];
    if precision == Precision::F32 {
        unwanted.extend([
            Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
            Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
            Note::CUDNN_NUMERICAL_NOTE_FFT,
            Note::CUDNN_NUMERICAL_NOTE_WINOGRAD,
        ]);
    }
    Ok(!behaviour.contains(&compiled) && !unwanted.iter().any(|note| numerical.contains(&(*note as u32))))
}
