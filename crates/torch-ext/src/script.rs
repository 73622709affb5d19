//! TorchScript modules, compiled from source by libtorch.

use crate::error::{Error, Result, check};
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use tch::Tensor;
use torch_sys::C_tensor;

#[repr(C)]
struct Handle {
    _private: [u8; 0],
}

type StoreTensor = extern "C" fn(*mut c_void, *mut C_tensor);
type StoreBytes = extern "C" fn(*mut c_void, *const c_char, usize);

unsafe extern "C" {
    fn torch_ext_script_new(name: *const c_char, result: *mut *mut Handle) -> *mut c_char;
    fn torch_ext_script_free(module: *mut Handle);
    fn torch_ext_script_tensor(
        module: *mut Handle,
        path: *const c_char,
        tensor: *const C_tensor,
        is_buffer: bool,
    ) -> *mut c_char;
    fn torch_ext_script_int(module: *mut Handle, name: *const c_char, value: i64) -> *mut c_char;
    fn torch_ext_script_text(module: *mut Handle, name: *const c_char, value: *const c_char) -> *mut c_char;
    fn torch_ext_script_numbers(
        module: *mut Handle,
        name: *const c_char,
        values: *const f64,
        count: usize,
    ) -> *mut c_char;
    fn torch_ext_script_texts(
        module: *mut Handle,
        name: *const c_char,
        values: *const *const c_char,
        count: usize,
    ) -> *mut c_char;
    fn torch_ext_script_define(module: *mut Handle, source: *const c_char) -> *mut c_char;
    fn torch_ext_script_call(
        module: *const Handle,
        method: *const c_char,
        input: *const C_tensor,
        context: *mut c_void,
        store: StoreTensor,
    ) -> *mut c_char;
    fn torch_ext_script_optimize(module: *const Handle, result: *mut *mut Handle) -> *mut c_char;
    fn torch_ext_script_save(module: *const Handle, context: *mut c_void, store: StoreBytes) -> *mut c_char;
    fn torch_ext_script_load(path: *const c_char, result: *mut *mut Handle) -> *mut c_char;
}

/// A TorchScript module: named tensors, attributes, and methods compiled from their source.
#[derive(Debug)]
pub struct Script {
    module: *mut Handle,
}

/// A value of a module that is no tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attribute<'a> {
    /// A whole number.
    Int(i64),
    /// Text.
    Text(&'a str),
    /// A list of numbers.
    Numbers(&'a [f64]),
    /// A list of texts.
    Texts(&'a [String]),
}

impl Script {
    /// A module of that name without tensors and methods.
    ///
    /// # Errors
    /// If libtorch cannot make it.
    pub fn new(name: &str) -> Result<Self> {
        let name = c_string(name)?;
        // SAFETY: `name` outlives the call; on success the shim stores a module that is ours to
        // free.
        Self::made(|result| unsafe { torch_ext_script_new(name.as_ptr(), result) })
    }

    /// Reads a file that [`Script::save`] or `torch.jit.save` wrote.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        let path = c_string(&path.to_string_lossy())?;
        // SAFETY: as in `new`.
        Self::made(|result| unsafe { torch_ext_script_load(path.as_ptr(), result) })
    }

    /// The module frozen and with fused operations, as `torch.jit.optimize_for_inference` makes it:
    /// for running, not for saving.
    ///
    /// # Errors
    /// If libtorch cannot optimize it.
    pub fn optimized(&self) -> Result<Self> {
        // SAFETY: the module is alive and only copied; otherwise as in `new`.
        Self::made(|result| unsafe { torch_ext_script_optimize(self.module, result) })
    }

    fn made(make: impl FnOnce(*mut *mut Handle) -> *mut c_char) -> Result<Self> {
        let mut module = std::ptr::null_mut();
        check(make(&mut module))?;
        Ok(Self { module })
    }

    /// Adds a tensor under a dotted path of the state dict, making the submodules on the way.
    ///
    /// # Errors
    /// If the path is taken.
    pub fn tensor(&mut self, path: &str, tensor: &Tensor, is_buffer: bool) -> Result<()> {
        let path = c_string(path)?;
        // SAFETY: all pointers outlive the call; the module keeps a reference of its own to the
        // tensor.
        check(unsafe { torch_ext_script_tensor(self.module, path.as_ptr(), tensor.as_ptr(), is_buffer) })
    }

    /// Adds an attribute.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn attribute(&mut self, name: &str, value: Attribute) -> Result<()> {
        let name = c_string(name)?;
        // SAFETY: all pointers outlive the calls, which copy what they point to.
        check(match value {
            Attribute::Int(value) => unsafe { torch_ext_script_int(self.module, name.as_ptr(), value) },
            Attribute::Text(value) => {
                let value = c_string(value)?;
                unsafe { torch_ext_script_text(self.module, name.as_ptr(), value.as_ptr()) }
            }
            Attribute::Numbers(values) => unsafe {
                torch_ext_script_numbers(self.module, name.as_ptr(), values.as_ptr(), values.len())
            },
            Attribute::Texts(values) => {
                let values = values.iter().map(|value| c_string(value)).collect::<Result<Vec<_>>>()?;
                let pointers: Vec<*const c_char> = values.iter().map(|value| value.as_ptr()).collect();
                unsafe { torch_ext_script_texts(self.module, name.as_ptr(), pointers.as_ptr(), pointers.len()) }
            }
        })
    }

    /// Compiles methods from TorchScript source; they may use the module's tensors and attributes,
    /// and each other.
    ///
    /// # Errors
    /// libtorch's own words if the source does not compile.
    pub fn define(&mut self, source: &str) -> Result<()> {
        let source = c_string(source)?;
        // SAFETY: `source` outlives the call.
        check(unsafe { torch_ext_script_define(self.module, source.as_ptr()) })
    }

    /// Calls a method that takes a tensor and returns one, or one and a list: all that it returns,
    /// in order. No gradients.
    ///
    /// # Errors
    /// If there is no such method or it fails.
    pub fn call(&self, method: &str, input: &Tensor) -> Result<Vec<Tensor>> {
        extern "C" fn store(context: *mut c_void, tensor: *mut C_tensor) {
            // SAFETY: `context` is the vector below, and the shim gives the tensor away.
            unsafe { (*context.cast::<Vec<Tensor>>()).push(Tensor::from_ptr(tensor)) }
        }
        let method = c_string(method)?;
        let mut tensors: Vec<Tensor> = Vec::new();
        let context = (&raw mut tensors).cast();
        // SAFETY: all pointers outlive the call; `store` gets the vector it expects.
        check(unsafe { torch_ext_script_call(self.module, method.as_ptr(), input.as_ptr(), context, store) })?;
        Ok(tensors)
    }

    /// The bytes of the file that `torch.jit.load` reads.
    ///
    /// # Errors
    /// If libtorch cannot write them.
    pub fn save(&self) -> Result<Vec<u8>> {
        extern "C" fn store(context: *mut c_void, bytes: *const c_char, count: usize) {
            // SAFETY: `context` is the vector below; the shim passes as many bytes as it says.
            unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(bytes.cast(), count)) }
        }
        let mut bytes: Vec<u8> = Vec::new();
        // SAFETY: the module is alive; `store` gets the vector it expects.
        check(unsafe { torch_ext_script_save(self.module, (&raw mut bytes).cast(), store) })?;
        Ok(bytes)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: the module is ours and nobody uses it any more.
        unsafe { torch_ext_script_free(self.module) }
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::ZeroByte(text.escape_default().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn a_module_is_compiled_called_saved_and_loaded() {
        let mut script = Script::new("Small").unwrap();
        script.tensor("layer1.0.weight", &Tensor::from_slice(&[2.0f32, 3.0]), false).unwrap();
        script.tensor("layer1.0.mean", &Tensor::from_slice(&[1.0f32, 1.0]), true).unwrap();
        script.attribute("classes", Attribute::Texts(&["cat".into(), "dog".into()])).unwrap();
        script.attribute("size", Attribute::Int(32)).unwrap();
        script.attribute("std", Attribute::Numbers(&[0.5, 0.25])).unwrap();
        script.attribute("about", Attribute::Text("a test")).unwrap();
        let source = "def forward(self, x: Tensor) -> Tensor:\n    part = getattr(self.layer1, \"0\")\n    \
                      return (x - part.mean) * part.weight\n\
                      def both(self, x: Tensor) -> Tuple[Tensor, List[Tensor]]:\n    return self.forward(x), [x]\n";
        script.define(source).unwrap();
        let x = Tensor::from_slice(&[3.0f32, 4.0]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.pt");
        std::fs::write(&path, script.save().unwrap()).unwrap();
        let loaded = Script::load(&path).unwrap();
        for module in [&script, &loaded, &loaded.optimized().unwrap()] {
            assert_eq!(module.call("forward", &x).unwrap(), [Tensor::from_slice(&[4.0f32, 9.0])]);
        }
        assert_eq!(loaded.call("both", &x).unwrap().len(), 2);
    }

    #[test]
    fn faults_are_errors_in_libtorchs_words() {
        let mut script = Script::new("Small").unwrap();
        let error = script.define("def forward(self, x: Tensor) -> Tensor:\n    return x.nothing\n").unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(script.call("forward", &Tensor::zeros([1], (Kind::Float, Device::Cpu))).is_err());
        assert!(Script::load("/nowhere/at/all.pt".as_ref()).is_err());
        assert!(script.attribute("a\0b", Attribute::Int(1)).is_err());
    }
}
