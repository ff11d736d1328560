//! Convolutions with frozen weights on cuDNN, and their input gradients. Plans (descriptors, algorithm, workspace)
//! are made once per batch size, direction and precision; algorithms are chosen by cuDNN's heuristics among the
//! deterministic ones. bfloat16 rounds inputs and outputs, with sums in f32. Depthwise convolutions use a kernel of
//! `kernels.cu`.

use std::{
    collections::HashMap,
    ptr::{null_mut, without_provenance_mut},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use candle_core::{
    DType, Tensor,
    cuda_backend::cudarc::{
        cudnn::{result, sys},
        driver::{CudaSlice, CudaStream, DevicePtr},
    },
};

use rayon::prelude::*;

use super::{Gpu, lock, plan, refused};
use crate::{
    Error, Result,
    kernels::{
        Precision, Window,
        gpu::{After, Convolution, PointwisePass, WindowGeometry},
    },
};

/// Maximum workspace of an algorithm, in bytes.
const WORKSPACE: usize = 512 << 20;

/// cuDNN's handle, for one thread at a time.
pub(super) struct Dnn(Mutex<Handle>);

struct Handle(sys::cudnnHandle_t);

// SAFETY: a cuDNN handle may move between threads; the mutex around it serialises its use.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle` and not destroyed before.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl Dnn {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = Handle(result::create_handle().map_err(refused("cuDNN"))?);
        // SAFETY: handle and stream are alive, and the stream outlives the handle: both belong to one `Gpu`.
        unsafe { result::set_stream(handle.0, stream.cu_stream() as *mut _) }.map_err(refused("cuDNN"))?;
        Ok(Self(Mutex::new(handle)))
    }
}

/// A convolution with frozen weights on the GPU.
pub struct Frozen {
    window: Window,
    groups: usize,
    /// [in, out].
    channels: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    /// (O, kh, kw, C / groups); (kh, kw, C) if depthwise.
    weights: Tensor,
    /// The weights in bfloat16, once needed.
    rounded: OnceLock<Tensor>,
    bias: Option<Tensor>,
    plans: Mutex<HashMap<(usize, bool, Precision, bool), ConvPlan>>,
}

/// The plan of a convolution for one batch size, direction and precision.
enum ConvPlan {
    Backend(Arc<plan::ExecutionPlan>),
    /// cuDNN's legacy API: if the backend has no suitable plan, or for unaligned values.
    Legacy(LegacyPlan),
}

/// Arguments of cuDNN's legacy API.
struct LegacyPlan {
    x: Descriptor,
    w: Descriptor,
    y: Descriptor,
    conv: Descriptor,
    algorithm: Algorithm,
    workspace: usize,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Back(sys::cudnnConvolutionBwdDataAlgo_t),
}

enum Descriptor {
    Tensor(sys::cudnnTensorDescriptor_t),
    Filter(sys::cudnnFilterDescriptor_t),
    Conv(sys::cudnnConvolutionDescriptor_t),
}

// SAFETY: descriptors are plain memory that only their plan refers to; the plans are behind a mutex.
unsafe impl Send for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created by the matching function, and not destroyed before.
        let _ = unsafe {
            match *self {
                Self::Tensor(d) => result::destroy_tensor_descriptor(d),
                Self::Filter(d) => result::destroy_filter_descriptor(d),
                Self::Conv(d) => result::destroy_convolution_descriptor(d),
            }
        };
    }
}

impl Descriptor {
    /// (N, C, H, W), channels-last in memory.
    fn tensor(dims: [usize; 4], kind: sys::cudnnDataType_t) -> Result<Self> {
        let d = result::create_tensor_descriptor().map_err(refused("cuDNN"))?;
        let this = Self::Tensor(d);
        // SAFETY: just created.
        unsafe {
            result::set_tensor4d_descriptor(
                d,
                sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
                kind,
                dims.map(|v| v as i32),
            )
        }
        .map_err(refused("cuDNN: a value's shape"))?;
        Ok(this)
    }

    /// (O, C, kh, kw), channels-last in memory.
    fn filter(dims: [usize; 4], kind: sys::cudnnDataType_t) -> Result<Self> {
        let d = result::create_filter_descriptor().map_err(refused("cuDNN"))?;
        let this = Self::Filter(d);
        // SAFETY: just created.
        unsafe {
            result::set_filter4d_descriptor(
                d,
                kind,
                sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
                dims.map(|v| v as i32),
            )
        }
        .map_err(refused("cuDNN: the weights' shape"))?;
        Ok(this)
    }

    fn conv(window: &Window, groups: usize) -> Result<Self> {
        let d = result::create_convolution_descriptor().map_err(refused("cuDNN"))?;
        let this = Self::Conv(d);
        let Window { stride, dilation, pads, .. } = window;
        // SAFETY: just created.
        unsafe {
            result::set_convolution2d_descriptor(
                d,
                pads[0] as i32,
                pads[1] as i32,
                stride[0] as i32,
                stride[1] as i32,
                dilation[0] as i32,
                dilation[1] as i32,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )
            .map_err(refused("cuDNN: a convolution"))?;
            result::set_convolution_group_count(d, groups as i32).map_err(refused("cuDNN: groups"))?;
        }
        Ok(this)
    }

    fn get_tensor(&self) -> sys::cudnnTensorDescriptor_t {
        if let Self::Tensor(d) = self { *d } else { null_mut() }
    }

    fn get_filter(&self) -> sys::cudnnFilterDescriptor_t {
        if let Self::Filter(d) = self { *d } else { null_mut() }
    }

    fn get_conv(&self) -> sys::cudnnConvolutionDescriptor_t {
        if let Self::Conv(d) = self { *d } else { null_mut() }
    }
}

impl Frozen {
    fn is_depthwise(groups: usize, [c, o]: [usize; 2]) -> bool {
        groups == c && c == o && groups > 1
    }

    /// (N, C, H, W) to (N, O, OH, OW), and with `keep` the mask of positive outputs.
    ///
    /// # Errors
    /// cuDNN or driver errors.
    pub fn forward(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        after: After<'_>,
        precision: Precision,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let After { more, relu, keep } = after;
        let y = self.convolve(gpu, x, false, precision)?;
        let pass = PointwisePass { shift: self.bias.as_ref(), more, relu, ..PointwisePass::default() };
        if pass.shift.is_none() && more.is_none() && !relu {
            return Ok((y, None));
        }
        let mask = gpu.pass_in_place(&y, pass, keep)?;
        Ok((y, mask))
    }

    /// The gradient with respect to the input, with `then` applied to it.
    ///
    /// # Errors
    /// cuDNN or driver errors.
    pub fn input_grad(
        &self,
        gpu: &Gpu,
        dy: &Tensor,
        then: PointwisePass<'_>,
        precision: Precision,
    ) -> Result<Tensor> {
        let dx = self.convolve(gpu, dy, true, precision)?;
        if then.mask.is_some() || then.scale.is_some() || then.more.is_some() {
            gpu.pass_in_place(&dx, then, false)?;
        }
        Ok(dx)
    }

    fn convolve(&self, gpu: &Gpu, from: &Tensor, back: bool, precision: Precision) -> Result<Tensor> {
        let n = from.dim(0)?;
        let [[c, h, w], [o, oh, ow]] = self.sides();
        let (takes, gives) =
            if back { ([n, o, oh, ow], [n, c, h, w]) } else { ([n, c, h, w], [n, o, oh, ow]) };
        if from.dims() != takes || takes.iter().product::<usize>() >= super::ELEMENTS {
            return Err(Error::internal(format!("a value of shape {:?}, expected {takes:?}", from.dims())));
        }
        if Self::is_depthwise(self.groups, self.channels) {
            let geometry = WindowGeometry::new(&self.window, self.input, self.output);
            return gpu.depthwise(from, &self.weights, geometry, &gives, back);
        }
        if !self.pads_alike() {
            return self.convolve_padded(gpu, from, back, precision);
        }
        self.planned(gpu, from, &gives, back, precision)
    }

    /// Whether the padding is symmetric, as cuDNN requires.
    fn pads_alike(&self) -> bool {
        let pads = &self.window.pads;
        pads[0] == pads[2] && pads[1] == pads[3]
    }

    /// The input's [height, width] in the plans, padding included if it is asymmetric.
    fn planned_input(&self) -> [usize; 2] {
        let (pads, [h, w]) = (&self.window.pads, self.input);
        if self.pads_alike() { [h, w] } else { [h + pads[0] + pads[2], w + pads[1] + pads[3]] }
    }

    /// Pads the input in memory first if its padding is asymmetric.
    fn convolve_padded(&self, gpu: &Gpu, from: &Tensor, back: bool, precision: Precision) -> Result<Tensor> {
        let [top, left, bottom, right] = self.window.pads;
        let (n, [h, w]) = (from.dim(0)?, self.planned_input());
        if back {
            let dx = self.planned(gpu, from, &[n, self.channels[0], h, w], true, precision)?;
            let inside = dx.narrow(2, top, self.input[0])?.narrow(3, left, self.input[1])?;
            return Ok(inside.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))?);
        }
        let rows = from.permute((0, 2, 3, 1))?.contiguous()?;
        let padded = rows.pad_with_zeros(1, top, bottom)?.pad_with_zeros(2, left, right)?.contiguous()?;
        let [oh, ow] = self.output;
        let to = [n, self.channels[1], oh, ow];
        self.planned(gpu, &padded.permute((0, 3, 1, 2))?, &to, false, precision)
    }

    fn planned(
        &self,
        gpu: &Gpu,
        from: &Tensor,
        gives: &[usize],
        back: bool,
        precision: Precision,
    ) -> Result<Tensor> {
        let n = from.dim(0)?;
        let half = precision == Precision::Bf16;
        let (from, weights, to) = if half {
            let [n, c, h, w] = <[usize; 4]>::try_from(gives).map_err(|_| Error::internal("no images"))?;
            let to = gpu.empty::<half::bf16>(&[n, h, w, c])?;
            (&from.permute((0, 2, 3, 1))?.to_dtype(DType::BF16)?, self.rounded()?, to)
        } else {
            (from, &self.weights, gpu.value(gives)?)
        };
        let addresses = [gpu.address(from)?, gpu.address(weights)?, gpu.address(&to)?];
        let aligned = addresses.iter().all(|a| a.is_multiple_of(plan::ALIGNMENT as u64));
        let mut plans = lock(&self.plans);
        let plan = match plans.entry((n, back, precision, aligned)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(self.conv_plan(gpu, n, back, precision, aligned)?)
            }
        };
        match plan {
            ConvPlan::Backend(plan) => {
                let workspace = gpu.workspace(plan.workspace)?;
                let [from, weights, to] = addresses;
                let values = if back { [to, weights, from] } else { [from, weights, to] };
                // SAFETY: the caller checked that the values have the plan's shapes; the workspace has the size that
                // the plan needs, and one stream orders its uses.
                unsafe { plan.run(lock(&gpu.dnn.0).0, values, workspace.1) }?;
            }
            ConvPlan::Legacy(plan) => plan.run(gpu, addresses)?,
        }
        if half { Ok(to.to_dtype(DType::F32)?.permute((0, 3, 1, 2))?) } else { Ok(to) }
    }

    /// The weights in bfloat16.
    fn rounded(&self) -> Result<&Tensor> {
        if let Some(done) = self.rounded.get() {
            return Ok(done);
        }
        let made = self.weights.to_dtype(DType::BF16)?;
        Ok(self.rounded.get_or_init(|| made))
    }

    fn sides(&self) -> [[usize; 3]; 2] {
        let ([h, w], [oh, ow]) = (self.input, self.output);
        [[self.channels[0], h, w], [self.channels[1], oh, ow]]
    }

    fn conv_plan(
        &self,
        gpu: &Gpu,
        n: usize,
        back: bool,
        precision: Precision,
        aligned: bool,
    ) -> Result<ConvPlan> {
        if aligned {
            let ([c, o], [h, w], [oh, ow]) = (self.channels, self.planned_input(), self.output);
            let [kh, kw] = self.window.kernel;
            let inside = if self.pads_alike() { self.window.pads } else { [0; 4] };
            let shape = plan::ConvShape {
                x: [n, c, h, w],
                w: [o, c / self.groups.max(1), kh, kw],
                y: [n, o, oh, ow],
                pads: [inside[0], inside[1]],
                stride: self.window.stride,
                dilation: self.window.dilation,
            };
            if let Some(plan) = gpu.backend(shape, back, precision) {
                return Ok(ConvPlan::Backend(plan));
            }
        }
        self.plan(gpu, n, back, precision).map(ConvPlan::Legacy)
    }

    /// The plan that cuDNN's heuristics rank first among the deterministic ones that fit.
    fn plan(&self, gpu: &Gpu, n: usize, back: bool, precision: Precision) -> Result<LegacyPlan> {
        let ([c, o], [h, w], [oh, ow]) = (self.channels, self.planned_input(), self.output);
        let [kh, kw] = self.window.kernel;
        let kind = match precision {
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let x = Descriptor::tensor([n, c, h, w], kind)?;
        let y = Descriptor::tensor([n, o, oh, ow], kind)?;
        let filter = Descriptor::filter([o, c / self.groups.max(1), kh, kw], kind)?;
        let inside = if self.pads_alike() { self.window.pads } else { [0; 4] };
        let conv = Descriptor::conv(&Window { pads: inside, ..self.window.clone() }, self.groups)?;
        let math = match precision {
            Precision::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: the descriptor is alive.
        unsafe { result::set_convolution_math_type(conv.get_conv(), math) }.map_err(refused("cuDNN"))?;
        let handle = lock(&gpu.dnn.0);
        let mut plan = LegacyPlan { x, w: filter, y, conv, algorithm: NOTHING, workspace: 0 };
        let found = if back { plan.gradients(handle.0)? } else { plan.forwards(handle.0)? };
        let fits = |f: &&HeuristicResult| {
            f.works && f.deterministic && f.workspace <= WORKSPACE && (precision != Precision::F32 || f.exact)
        };
        let best = found.iter().find(fits).ok_or_else(|| {
            Error::internal(format!("cuDNN has no deterministic algorithm for a convolution of {c} channels"))
        })?;
        plan.algorithm = best.algorithm;
        // SAFETY: the descriptor is alive; the algorithm runs with the math type that it was found with.
        unsafe { result::set_convolution_math_type(plan.conv.get_conv(), best.math) }
            .map_err(refused("cuDNN"))?;
        plan.workspace = plan.workspace_of(handle.0)?;
        Ok(plan)
    }
}

impl Gpu {
    /// Copies a convolution's weights to the GPU.
    ///
    /// # Errors
    /// Driver errors.
    pub fn freeze(&self, convolution: Convolution<'_>) -> Result<Frozen> {
        let Convolution { window, groups, channels, input, output, weight, bias } = convolution;
        let [c, o] = channels;
        let (each, taps) = (c / groups.max(1), window.taps());
        let mut turned = vec![0f32; weight.len()];
        if Frozen::is_depthwise(groups, channels) {
            for (filter, values) in weight.chunks_exact(taps.max(1)).enumerate() {
                values.iter().enumerate().for_each(|(tap, v)| turned[tap * o + filter] = *v);
            }
        } else {
            let filter = (each * taps).max(1);
            turned.par_chunks_mut(filter).zip(weight.par_chunks(filter)).for_each(|(to, from)| {
                for (channel, values) in from.chunks_exact(taps.max(1)).enumerate() {
                    values.iter().enumerate().for_each(|(tap, v)| to[tap * each + channel] = *v);
                }
            });
        }
        Ok(Frozen {
            window: window.clone(),
            groups,
            channels,
            input,
            output,
            weights: self.constant(&turned)?,
            rounded: OnceLock::new(),
            bias: bias.map(|b| self.constant(b)).transpose()?,
            plans: Mutex::default(),
        })
    }

    /// The backend's plan for a convolution, searched for once.
    fn backend(
        &self,
        shape: plan::ConvShape,
        back: bool,
        precision: Precision,
    ) -> Option<Arc<plan::ExecutionPlan>> {
        let mut plans = lock(&self.plans);
        let find = || {
            plan::ExecutionPlan::new(lock(&self.dnn.0).0, &shape, back, precision, WORKSPACE)
                .ok()
                .map(Arc::new)
        };
        plans.entry((shape, back, precision)).or_insert_with(find).clone()
    }

    /// A workspace of at least `bytes`, reserved while the guard is held, and its address.
    fn workspace(&self, bytes: usize) -> Result<(MutexGuard<'_, Option<CudaSlice<u8>>>, u64)> {
        let mut held = lock(&self.workspace);
        if bytes > held.as_ref().map_or(0, |w| w.len()) {
            // SAFETY: cuDNN writes these bytes before it reads them.
            *held = Some(unsafe { self.device.alloc::<u8>(bytes) }?);
        }
        let place = held.as_ref().map_or(0, |w| w.device_ptr(&self.stream).0);
        Ok((held, place))
    }
}

const NOTHING: Algorithm =
    Algorithm::Forward(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM);

/// cuDNN's heuristic result for an algorithm.
struct HeuristicResult {
    algorithm: Algorithm,
    math: sys::cudnnMathType_t,
    works: bool,
    deterministic: bool,
    exact: bool,
    workspace: usize,
}

macro_rules! found {
    ($perf:expr, $kind:path) => {
        $perf
            .iter()
            .map(|p| HeuristicResult {
                algorithm: $kind(p.algo),
                math: p.mathType,
                works: p.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
                deterministic: p.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                exact: p.mathType == sys::cudnnMathType_t::CUDNN_FMA_MATH,
                workspace: p.memory,
            })
            .collect()
    };
}

impl LegacyPlan {
    /// Forward algorithms, the fastest (by the heuristics) first.
    fn forwards(&self, handle: sys::cudnnHandle_t) -> Result<Vec<HeuristicResult>> {
        const MOST: usize = 8;
        let mut count = 0;
        // SAFETY: plain numbers, for which zero is valid.
        let mut perf = [unsafe { std::mem::zeroed::<sys::cudnnConvolutionFwdAlgoPerf_t>() }; MOST];
        // SAFETY: all descriptors are alive, and there is room for the requested number of results.
        unsafe {
            result::get_convolution_forward_algorithm(
                handle,
                self.x.get_tensor(),
                self.w.get_filter(),
                self.conv.get_conv(),
                self.y.get_tensor(),
                MOST as i32,
                &raw mut count,
                perf.as_mut_ptr(),
            )
        }
        .map_err(refused("cuDNN: algorithms"))?;
        Ok(found!(perf[..(count.max(0) as usize).min(MOST)], Algorithm::Forward))
    }

    /// Input gradient algorithms, the fastest (by the heuristics) first.
    fn gradients(&self, handle: sys::cudnnHandle_t) -> Result<Vec<HeuristicResult>> {
        const MOST: usize = 6;
        let mut count = 0;
        // SAFETY: plain numbers, for which zero is valid.
        let mut perf = [unsafe { std::mem::zeroed::<sys::cudnnConvolutionBwdDataAlgoPerf_t>() }; MOST];
        // SAFETY: all descriptors are alive, and there is room for the requested number of results.
        unsafe {
            result::get_convolution_backward_data_algorithm(
                handle,
                self.w.get_filter(),
                self.y.get_tensor(),
                self.conv.get_conv(),
                self.x.get_tensor(),
                MOST as i32,
                &raw mut count,
                perf.as_mut_ptr(),
            )
        }
        .map_err(refused("cuDNN: algorithms"))?;
        Ok(found!(perf[..(count.max(0) as usize).min(MOST)], Algorithm::Back))
    }

    fn workspace_of(&self, handle: sys::cudnnHandle_t) -> Result<usize> {
        let (x, w, y, conv) =
            (self.x.get_tensor(), self.w.get_filter(), self.y.get_tensor(), self.conv.get_conv());
        // SAFETY: all descriptors are alive.
        unsafe {
            match self.algorithm {
                Algorithm::Forward(a) => {
                    result::get_convolution_forward_workspace_size(handle, x, w, conv, y, a)
                }
                Algorithm::Back(a) => {
                    result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, a)
                }
            }
        }
        .map_err(refused("cuDNN: workspace"))
    }

    fn run(&self, gpu: &Gpu, addresses: [u64; 3]) -> Result<()> {
        let workspace = gpu.workspace(self.workspace)?;
        let pointer = |address: u64| without_provenance_mut::<std::ffi::c_void>(address as usize);
        let [from, weights, to] = addresses.map(pointer);
        let place = pointer(workspace.1);
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let (x, w, y, conv) =
            (self.x.get_tensor(), self.w.get_filter(), self.y.get_tensor(), self.conv.get_conv());
        let handle = lock(&gpu.dnn.0);
        // SAFETY: the descriptors are alive and describe the tensors, whose shapes the caller checked; the workspace
        // has the size that the algorithm needs, and one stream orders its uses.
        unsafe {
            match self.algorithm {
                Algorithm::Forward(a) => result::convolution_forward(
                    handle.0,
                    one,
                    x,
                    from,
                    w,
                    weights,
                    conv,
                    a,
                    place,
                    self.workspace,
                    zero,
                    y,
                    to,
                ),
                Algorithm::Back(a) => result::convolution_backward_data(
                    handle.0,
                    one,
                    w,
                    weights,
                    y,
                    from,
                    conv,
                    a,
                    place,
                    self.workspace,
                    zero,
                    x,
                    to,
                ),
            }
        }
        .map_err(refused("cuDNN: a convolution"))
    }
}
