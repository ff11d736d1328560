//! Kernels for an NVIDIA GPU, with the same conventions as on the processor: channels-last images, frozen weights,
//! every sum in a fixed order. Values are candle tensors on candle's device and stream. Convolutions use cuDNN
//! ([`conv`]), products cuBLAS through candle, everything else `kernels.cu`, which NVRTC compiles when the device is
//! opened.
//!
//! Everything runs in order on one stream, so kernels need no events, and memory is reused without synchronisation.

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

use super::gpu::WindowGeometry;
use crate::{Error, Result, kernels::Precision};

/// Maximum number of elements of a value: kernels count them in 32 bits, cuDNN in 31.
pub const ELEMENTS: usize = 1 << 31;

/// An open GPU with its libraries and kernels.
pub struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    dnn: conv::Dnn,
    /// By shape, direction and precision, since many convolutions of a network share them; None if cuDNN's backend
    /// has no plan.
    plans: Mutex<HashMap<(plan::ConvShape, bool, Precision), Option<Arc<plan::ExecutionPlan>>>>,
    /// cuDNN's workspace, grown on demand; the stream orders its uses.
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

/// Maps an error of the driver or a library of the GPU.
fn refused<E: std::fmt::Debug>(what: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::internal(format!("GPU: {what}: {e:?}"))
}

/// Locks, ignoring poison: a panic leaves none of these values inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the GPU with this number: candle's device with its own stream, cuDNN, the kernels.
    ///
    /// # Errors
    /// No such GPU, no driver, or an unsuitable one.
    pub fn open(ordinal: usize) -> Result<Device> {
        // compiled in parallel: it takes as long as opening the driver, and needs no context
        let (device, kernels) = std::thread::scope(|scope| {
            let compiling = scope.spawn(|| compile(ordinal));
            let device = CudaDevice::new_with_stream(ordinal);
            let fell = |_| Err(Error::internal("GPU: compiling the kernels"));
            (device, compiling.join().unwrap_or_else(fell))
        });
        let (device, kernels) = (device?, kernels?);
        // SAFETY: all work on this device is queued on the one stream that it was opened with.
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

    /// The GPU of `device`; None for the processor.
    ///
    /// # Errors
    /// A GPU that [`Gpu::open`] did not open.
    pub fn of(device: &Device) -> Result<Option<Arc<Gpu>>> {
        let Device::Cuda(cuda) = device else { return Ok(None) };
        let known = lock(&OPEN).iter().find(|(id, _)| *id == cuda.id()).map(|(_, gpu)| gpu.clone());
        known.map(Some).ok_or_else(|| Error::internal("the GPU was not opened by this crate"))
    }

    /// The card's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// (free, total) memory in bytes.
    ///
    /// # Errors
    /// Driver errors.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.stream.context().mem_get_info().map_err(refused("memory"))
    }

    /// A row-major tensor of this shape with uninitialised values.
    fn empty<
        T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr,
    >(
        &self,
        shape: &[usize],
    ) -> Result<Tensor> {
        let len = shape.iter().product::<usize>();
        // SAFETY: any bits are valid floats or words; the caller has a kernel write all of them before they are read.
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

    /// A vector of numbers in the GPU's memory.
    ///
    /// # Errors
    /// Driver errors.
    pub fn constant(&self, values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, values.len(), &Device::Cuda(self.device.clone()))?)
    }

    /// Address of a tensor's first element. The tensor must live until everything that accesses it is queued.
    fn address(&self, t: &Tensor) -> Result<u64> {
        let (guard, layout) = t.storage_and_layout();
        let Storage::Cuda(storage) = &*guard else {
            return Err(Error::internal("the value is not on the GPU"));
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

    /// The address of an optional tensor; 0 if None.
    fn address_or_null(&self, t: Option<&Tensor>) -> Result<u64> {
        t.map_or(Ok(0), |t| self.address(t))
    }

    /// The kernel with this name.
    fn function(&self, name: &'static str) -> Result<&CudaFunction> {
        self.functions.get(name).ok_or_else(|| Error::internal("the kernel was not loaded"))
    }
}

/// The memory pool of a device's allocations.
fn pool(device: sys::CUdevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device was opened.
    unsafe { result::device::get_mem_pool(device) }.map_err(refused("memory pool"))
}

/// Keeps freed memory in the pool: returning it to the driver at each synchronisation takes far longer than a kernel.
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

/// Compiles the kernels for the GPU with this number.
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

/// Maximum of a grid's second dimension, on every GPU.
const GRID_ROWS: usize = 65_535;

/// A kernel argument.
#[derive(Clone, Copy)]
enum Arg {
    Pointer(u64),
    Word(u32),
    Int(i32),
    Float(f32),
    Window(WindowGeometry),
}

impl Gpu {
    /// Queues a kernel.
    fn launch(&self, name: &'static str, grid: [usize; 2], block: [u32; 2], args: &[Arg]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(()); // no elements
        }
        if grid[1] > GRID_ROWS {
            return Err(Error::setting(
                "device",
                format!("{} images are too many for one batch on a GPU", grid[1]),
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
        // SAFETY: each method passes the arguments that the kernel of that name takes, and addresses of tensors as
        // long as the kernel accesses.
        unsafe { launch.launch(config) }.map_err(refused(name))?;
        Ok(())
    }
}
