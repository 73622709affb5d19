//! What can go wrong, on this side of the C++ shim and behind it.

use std::ffi::{CStr, c_char};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// libtorch refused an operation behind the C++ shim.
    #[error("libtorch: {0}")]
    Shim(String),
    /// Two tensors were given the same name.
    #[error("tensor '{0}' is defined twice")]
    Duplicate(String),
    /// Batch norm cannot train on this batch.
    #[error("batch norm needs more than one value per channel while training, found shape {0:?}; use a larger batch")]
    OneValuePerChannel(Vec<i64>),
    /// A gradient or momentum buffer does not correspond to its parameter.
    #[error("the {what} of a parameter of shape {parameter:?} is missing or has another shape, layout, kind or device")]
    Unlike {
        /// Gradient or momentum.
        what: &'static str,
        /// Shape of the parameter.
        parameter: Vec<i64>,
    },
    /// A text cannot be passed to libtorch.
    #[error("'{0}' holds a zero byte, which no name or text of a module can have")]
    ZeroByte(String),
    /// Lists that belong together differ in length.
    #[error("{what}: expected {expected} tensors, found {found}")]
    Count {
        /// Which list.
        what: &'static str,
        /// Its required length.
        expected: usize,
        /// Its length.
        found: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

unsafe extern "C" {
    fn torch_ext_free_error(error: *mut c_char);
}

/// Takes over the error text a shim function returned; null means success.
pub(crate) fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated string from strdup, freed exactly once,
    // here.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        torch_ext_free_error(error);
        text
    };
    Err(Error::Shim(text))
}
