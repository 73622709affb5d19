//! CUDA: libtorch's libraries loaded when somebody asks for a GPU, and copies to it.

use crate::error::{Result, check};
use std::ffi::c_char;
use std::sync::OnceLock;
use tch::{Device, Tensor};

unsafe extern "C" {
    fn torch_ext_to_cuda(
        tensor: *const torch_sys::C_tensor,
        device: i64,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
    fn torch_ext_load_cuda() -> *mut c_char;
}

/// Whether a CUDA device can be used. Ask before the first tensor is made: libtorch looks for its
/// CUDA half once.
///
/// The CUDA libraries (about 2 GB) are loaded by the first call and not at program start, so a run
/// on the CPU starts fast.
pub fn cuda_is_available() -> bool {
    cuda_fault().is_none()
}

/// Why no CUDA device can be used, if none can: what the system says of libtorch's CUDA libraries,
/// or that no device answers. As [`cuda_is_available`], ask before the first tensor is made.
pub fn cuda_fault() -> Option<&'static str> {
    static FAULT: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        // SAFETY: dlopen of a libtorch library; its static initializers only register back ends.
        match check(unsafe { torch_ext_load_cuda() }) {
            Err(error) => Some(error.to_string()),
            Ok(()) if tch::Cuda::is_available() => None,
            Ok(()) => Some("no device answers: its driver is missing or too old, or none is visible".to_owned()),
        }
    };
    FAULT.get_or_init(find).as_deref()
}

/// The tensor on `device`. A CUDA device copies it by itself, from memory that is pinned for the
/// purpose: the host goes on at once.
///
/// # Errors
/// If the device cannot hold it.
pub fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let Device::Cuda(number) = device else { return Ok(tensor.f_to_device(device)?) };
    let mut result = std::ptr::null_mut();
    // SAFETY: a valid tensor and a result that outlive the call.
    check(unsafe { torch_ext_to_cuda(tensor.as_ptr(), number as i64, &raw mut result) })?;
    // SAFETY: made with new, and ours now.
    Ok(unsafe { Tensor::from_ptr(result) })
}
