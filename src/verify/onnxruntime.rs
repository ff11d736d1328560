//! onnxruntime as a runtime of the judge. Its library is loaded when it is asked for; nothing is linked.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use half::f16;
use ort::{
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{DynValue, Tensor, TensorElementType, ValueType},
};
use prost::Message as _;
use tract_onnx::pb::ModelProto;

use super::runtime::{Fed, Form, Part, Runtime, Value, in_file};
use crate::{Error, Result, base::guard::caught, error::shortened};

/// The environment variable that names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";

/// A model in onnxruntime, in both of its forms. A session runs one batch at a time, on all cores.
pub(super) struct OnnxRuntime {
    fed: Fed,
    plain: Mutex<Session>,
    optimised: Result<Mutex<Session>, String>,
    outputs: usize,
}

impl OnnxRuntime {
    /// Loads a model from `bytes`; external data is read from `folder`.
    ///
    /// # Errors
    /// [`Error::Setting`] without the library; [`Error::Check`] named `judge` if it cannot read the model.
    pub fn load(bytes: &[u8], folder: Option<&Path>, fed: Fed) -> Result<Self> {
        library()?;
        let session = |form| session(form, bytes, folder).map(Mutex::new);
        let mut own = Self {
            fed,
            plain: session(Form::Plain)?,
            optimised: session(Form::Optimised).map_err(|e| e.to_string()),
            outputs: 0,
        };
        let zeros = vec![0.0; fed.shape.iter().product()];
        let (shape, values) = own.run(Form::Plain, &zeros)?;
        if shape.first() == Some(&fed.shape[0]) {
            own.outputs = values.len() / fed.shape[0];
        }
        Ok(own)
    }
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn rewritten(&self) -> &[String] {
        &[]
    }

    fn batch(&self, _: Form) -> usize {
        self.fed.shape[0]
    }

    fn run(&self, form: Form, x: &[f32]) -> Result<(Vec<usize>, Vec<f32>)> {
        let session = match form {
            Form::Plain => &self.plain,
            Form::Optimised => self.optimised.as_ref().map_err(|why| Error::check("judge", why))?,
        };
        let (shape, data) = in_file(&self.fed.shape, self.fed.layout, x);
        let outputs = run(session, &[Value { shape, data }], Some(self.fed.output))?;
        let Some(Value { shape, data }) = outputs.into_iter().next() else {
            return Err(Error::check("judge", "onnxruntime returned nothing"));
        };
        Ok((shape, data))
    }

    fn part(&self, form: Form, model: &ModelProto) -> Result<Box<dyn Part>> {
        Ok(Box::new(OrtPart(Mutex::new(session(form, &model.encode_to_vec(), None)?))))
    }
}

struct OrtPart(Mutex<Session>);

impl Part for OrtPart {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>> {
        run(&self.0, inputs, None)
    }
}

/// Loads the library once.
fn library() -> Result<()> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || {
        let given = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = given.clone().unwrap_or_else(|| {
            format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX).into()
        });
        let loaded = caught(|| ort::init_from(&path).map(|environment| environment.commit()));
        match loaded {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(shortened(&e.to_string(), 200)),
            Err(panic) => Err(shortened(&panic, 200)),
        }
        .map_err(|why| match given {
            Some(path) => {
                format!("onnxruntime's library {} ({LIBRARY}) cannot be loaded: {why}", path.display())
            }
            None => {
                let name = path.display();
                format!(
                    "onnxruntime's library {name} is not on this system; {LIBRARY} names it elsewhere ({why})"
                )
            }
        })
    };
    LOADED.get_or_init(load).as_ref().map(|_| ()).map_err(|why| Error::setting("judge", why))
}

fn session(form: Form, bytes: &[u8], folder: Option<&Path>) -> Result<Session> {
    let level = match form {
        Form::Plain => GraphOptimizationLevel::Disable,
        Form::Optimised => GraphOptimizationLevel::All,
    };
    let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    guarded("reading the model", || {
        let mut builder = Session::builder()?.with_optimization_level(level)?;
        if let Some(folder) = folder {
            let key = "session.model_external_initializers_file_folder_path";
            builder = builder.with_config_entry(key, folder.to_string_lossy())?;
        }
        builder.commit_from_memory(bytes)
    })
}

/// Runs a session; inputs are converted to the types that it declares, outputs to floats. `only`: one output.
fn run(session: &Mutex<Session>, inputs: &[Value], only: Option<usize>) -> Result<Vec<Value>> {
    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
    guarded("running the model", || {
        let types: Vec<TensorElementType> = session
            .inputs()
            .iter()
            .map(|input| match input.dtype() {
                ValueType::Tensor { ty, .. } => *ty,
                _ => TensorElementType::Float32,
            })
            .collect();
        let fed = inputs.iter().zip(types).map(|(value, ty)| Ok(SessionInputValue::from(fed(value, ty)?)));
        let fed: Vec<SessionInputValue<'_>> = fed.collect::<ort::Result<_>>()?;
        let outputs = session.run(fed.as_slice())?;
        let wanted = outputs.iter().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i));
        wanted.map(|(_, (_, value))| floats(&value)).collect()
    })
}

fn fed(value: &Value, ty: TensorElementType) -> ort::Result<DynValue> {
    let Value { shape, data } = value;
    let whole = |v: &f32| v.round();
    Ok(match ty {
        TensorElementType::Uint8 => {
            let data: Vec<u8> = data.iter().map(|v| whole(v) as u8).collect();
            Tensor::from_array((shape.clone(), data))?.into_dyn()
        }
        TensorElementType::Int64 => {
            let data: Vec<i64> = data.iter().map(|v| whole(v) as i64).collect();
            Tensor::from_array((shape.clone(), data))?.into_dyn()
        }
        TensorElementType::Int32 => {
            let data: Vec<i32> = data.iter().map(|v| whole(v) as i32).collect();
            Tensor::from_array((shape.clone(), data))?.into_dyn()
        }
        TensorElementType::Bool => {
            let data: Vec<bool> = data.iter().map(|v| *v != 0.0).collect();
            Tensor::from_array((shape.clone(), data))?.into_dyn()
        }
        TensorElementType::Float16 => {
            let data: Vec<f16> = data.iter().map(|v| f16::from_f32(*v)).collect();
            Tensor::from_array((shape.clone(), data))?.into_dyn()
        }
        // anything else is refused by the session
        _ => Tensor::from_array((shape.clone(), data.clone()))?.into_dyn(),
    })
}

fn floats(value: &DynValue) -> ort::Result<Value> {
    let ty = match value.dtype() {
        ValueType::Tensor { ty, .. } => *ty,
        _ => TensorElementType::Float32,
    };
    macro_rules! as_floats {
        ($t:ty, $convert:expr) => {{
            let (shape, data) = value.try_extract_tensor::<$t>()?;
            (shape.to_vec(), data.iter().map($convert).collect::<Vec<f32>>())
        }};
    }
    let (shape, data) = match ty {
        TensorElementType::Float16 => as_floats!(f16, |v| v.to_f32()),
        TensorElementType::Uint8 => as_floats!(u8, |v| f32::from(*v)),
        TensorElementType::Int64 => as_floats!(i64, |v| *v as f32),
        TensorElementType::Int32 => as_floats!(i32, |v| *v as f32),
        TensorElementType::Float64 => as_floats!(f64, |v| *v as f32),
        TensorElementType::Bool => as_floats!(bool, |v| f32::from(u8::from(*v))),
        _ => as_floats!(f32, |v| *v),
    };
    Ok(Value { shape: shape.iter().map(|&d| d.max(0) as usize).collect(), data })
}

/// Calls into onnxruntime; a panic of the binding becomes an error.
fn guarded<T>(doing: &str, call: impl FnOnce() -> ort::Result<T>) -> Result<T> {
    match caught(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => {
            let said = shortened(&e.to_string(), 300);
            Err(Error::check("judge", format!("onnxruntime, {doing}: {said}")))
        }
        Err(panic) => Err(Error::check(
            "judge",
            format!("onnxruntime's binding panicked {doing}: {}", shortened(&panic, 300)),
        )),
    }
}
