//! The kernels on an NVIDIA GPU, behind the same convention as those on the processor: images channels-last, frozen
//! weights, a fixed order of every sum. Values are candle tensors on candle's device and stream; convolutions go to cuDNN
//! ([`conv`]), products to cuBLAS through candle, what is left to `kernels.cu`, compiled by NVRTC when the device is
//! opened.
//!
//! Everything runs on one stream, in the order in which it was asked for, so that no kernel waits for another with an
//! event, and memory is handed from one use to the next without a synchronisation.

mod algebra;
mod conv;
mod launch;
mod plan;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, Device, Storage, Tensor,
    cuda_backend::{
        DeviceId,
        cudarc::{
            driver::{
                CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, result, sys,
            },
            nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts},
        },
    },
    op::BackpropOp,
};

pub use conv::Frozen;

use super::gpu::Geometry;
use crate::{Error, Result, kernels::Precision};

/// Elements that one value may have: kernels count them in 32 bits, and cuDNN in 31.
pub const ELEMENTS: usize = 1 << 31;

/// A GPU with what was made ready on it.
pub struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    dnn: conv::Dnn,
    /// By shape, direction and precision; None where cuDNN's backend has none. Many convolutions of a network have the same.
    plans: Mutex<HashMap<(plan::Shape, bool, Precision), Option<Arc<plan::Plan>>>>,
    /// What cuDNN works in, as large as was needed so far; one use follows the other on the stream.
    workspace: Mutex<Option<CudaSlice<u8>>>,
    name: String,
}

const FUNCTIONS: [&str; 27] = [
    "pass4",
    "pass1",
    "apply",
    "apply_back",
    "gate",
    "sum_rows",
    "max_pool",
    "max_pool_back",
    "mean_pool",
    "mean_pool_back",
    "depthwise",
    "depthwise_back",
    "gather",
    "latent_norm",
    "latent_move",
    "pixel_step",
    "blend",
    "scale_lines",
    "less_outer",
    "row_dots",
    "norm_line",
    "norm_line_back",
    "sgd_step",
    "adam_step",
    "normalise",
    "accumulate",
    "unit_rows",
];

static OPEN: Mutex<Vec<(DeviceId, Arc<Gpu>)>> = Mutex::new(Vec::new());

/// What a driver or a library of the GPU refuses.
fn refused<E: std::fmt::Debug>(what: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::internal(format!("GPU: {what}: {e:?}"))
}

/// What a mutex holds: nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the GPU with this number and makes everything ready on it: candle's device with a stream of its own, cuDNN,
    /// the kernels.
    ///
    /// # Errors
    /// No such GPU, no driver, or one that does not serve.
    pub fn open(ordinal: usize) -> Result<Device> {
        // the compiler takes as long as the driver, and needs no context
        let (device, kernels) = std::thread::scope(|scope| {
            let compiling = scope.spawn(|| compile(ordinal));
            let device = CudaDevice::new_with_stream(ordinal);
            let fell = |_| Err(Error::internal("GPU: compiling the kernels"));
            (device, compiling.join().unwrap_or_else(fell))
        });
        let (device, kernels) = (device?, kernels?);
        // SAFETY: whatever is queued on this device goes to the one stream that it was opened with.
        unsafe { device.disable_event_tracking() };
        let stream = device.cuda_stream();
        let context = stream.context();
        keep_freed_memory(context.cu_device())?;
        let module = context.load_module(kernels).map_err(refused("loading the kernels"))?;
        let functions = FUNCTIONS
            .iter()
            .map(|&name| Ok((name, module.load_function(name).map_err(refused("loading a kernel"))?)))
            .collect::<Result<_>>()?;
        let dnn = conv::Dnn::new(&stream)?;
        let name = context.name().map_err(refused("name"))?;
        let (plans, workspace) = (Mutex::default(), Mutex::new(None));
        let gpu = Self { device: device.clone(), stream, functions, dnn, plans, workspace, name };
        lock(&OPEN).push((device.id(), Arc::new(gpu)));
        Ok(Device::Cuda(device))
    }

    /// The GPU that `device` is; None for the processor.
    ///
    /// # Errors
    /// A GPU that [`Gpu::open`] did not open.
    pub fn of(device: &Device) -> Result<Option<Arc<Gpu>>> {
        let Device::Cuda(cuda) = device else { return Ok(None) };
        let known = lock(&OPEN).iter().find(|(id, _)| *id == cuda.id()).map(|(_, gpu)| gpu.clone());
        known.map(Some).ok_or_else(|| Error::internal("a GPU that was not opened here"))
    }

    /// What the card is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Free bytes, and all.
    ///
    /// # Errors
    /// The driver's own.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.stream.context().mem_get_info().map_err(refused("memory"))
    }

    /// A tensor of this shape, row-major, with whatever is in its memory.
    fn empty<
        T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr,
    >(
        &self,
        shape: &[usize],
    ) -> Result<Tensor> {
        let len = shape.iter().product::<usize>();
        // SAFETY: floats or words of any value; whoever asks for it has a kernel write all of it before it is read.
        let memory = unsafe { self.device.alloc::<T>(len) }?;
        let storage = CudaStorage::wrap_cuda_slice(memory, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    /// [`Gpu::empty`] for floats in the layout of values: rank 4 channels-last.
    fn value(&self, shape: &[usize]) -> Result<Tensor> {
        match *shape {
            [n, c, h, w] => Ok(self.empty::<f32>(&[n, h, w, c])?.permute((0, 3, 1, 2))?),
            _ => self.empty::<f32>(shape),
        }
    }

    /// Numbers that stay on the GPU.
    ///
    /// # Errors
    /// The driver's own.
    pub fn constant(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, values.len(), &Device::Cuda(self.device.clone()))?)
    }

    /// Where a tensor's first element lies. Its memory must not be handed back before what reads or writes there is queued.
    fn address(&self, t: &Tensor) -> Result<u64> {
        let (guard, layout) = t.storage_and_layout();
        let Storage::Cuda(storage) = &*guard else {
            return Err(Error::internal("a value that is not on the GPU"));
        };
        let size = t.dtype().size_in_bytes();
        let base = match t.dtype() {
            candle_core::DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&self.stream).0,
            candle_core::DType::F64 => storage.as_cuda_slice::<f64>()?.device_ptr(&self.stream).0,
            candle_core::DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&self.stream).0,
            candle_core::DType::BF16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(&self.stream).0,
            other => return Err(Error::internal(format!("a value of {other:?} on the GPU"))),
        };
        Ok(base + (layout.start_offset() * size) as u64)
    }

    /// The address of what may be absent: 0 then.
    fn address_or_null(&self, t: Option<&Tensor>) -> Result<u64> {
        t.map_or(Ok(0), |t| self.address(t))
    }

    /// The kernel with this name.
    fn function(&self, name: &'static str) -> Result<&CudaFunction> {
        self.functions.get(name).ok_or_else(|| Error::internal("a kernel that was not loaded"))
    }
}

/// The pool that a device's allocations come from.
fn pool(device: sys::CUdevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device was opened.
    unsafe { result::device::get_mem_pool(device) }.map_err(refused("memory pool"))
}

/// Freed memory is not given back to the driver at each synchronisation, which takes far longer than a kernel, but kept
/// for the next value.
fn keep_freed_memory(device: sys::CUdevice) -> Result<()> {
    let mut threshold = u64::MAX;
    // SAFETY: this attribute is a 64-bit number.
    unsafe {
        result::mem_pool::set_attribute(
            pool(device)?,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
    }
    .map_err(refused("memory pool"))
}

/// The kernels for the GPU with this number.
fn compile(ordinal: usize) -> Result<Ptx> {
    result::init().map_err(refused("driver"))?;
    let device = result::device::get(ordinal as i32).map_err(refused("device"))?;
    let of = |attribute| {
        // SAFETY: the device was just found.
        unsafe { result::device::get_attribute(device, attribute) }.map_err(refused("compute capability"))
    };
    let major = of(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = of(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
    let name = Some("kernels.cu".to_string());
    compile_ptx_with_opts(include_str!("kernels.cu"), CompileOptions { options, name, ..Default::default() })
        .map_err(refused("compiling the kernels"))
}

/// Rows of blocks that a grid has at most (its second dimension, on every GPU).
const GRID_ROWS: usize = 65_535;

/// What a launch hands to a kernel, in the kernel's order.
#[derive(Clone, Copy)]
enum Arg {
    Pointer(u64),
    Word(u32),
    Int(i32),
    Float(f32),
    Window(Geometry),
}

impl Gpu {
    /// Queues a kernel.
    fn launch(&self, name: &'static str, grid: [usize; 2], block: [u32; 2], args: &[Arg]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(()); // nothing to be done
        }
        if grid[1] > GRID_ROWS {
            return Err(Error::setting(
                "device",
                format!("{} images are more than a GPU takes at a time", grid[1]),
            ));
        }
        let mut launch = self.stream.launch_builder(self.function(name)?);
        for arg in args {
            match arg {
                Arg::Pointer(v) => launch.arg(v),
                Arg::Word(v) => launch.arg(v),
                Arg::Int(v) => launch.arg(v),
                Arg::Float(v) => launch.arg(v),
                Arg::Window(v) => launch.arg(v),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid[0] as u32, grid[1] as u32, 1),
            block_dim: (block[0], block[1], 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: each function of `launch` hands over what the kernel of that name takes, and addresses of tensors as long as
        // the kernel reads or writes.
        unsafe { launch.launch(config) }.map_err(refused(name))?;
        Ok(())
    }
}
