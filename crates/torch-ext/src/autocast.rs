//! Precision: operations of a thread in 16 bits or in float32, and TF32 in the whole process.

use crate::error::{Result, check};
use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use tch::Device;

unsafe extern "C" {
    fn torch_ext_autocast(
        cuda: bool,
        enabled: bool,
        kind: c_int,
        was_enabled: *mut bool,
        former_kind: *mut c_int,
    ) -> *mut c_char;
    fn torch_ext_autocast_end(cuda: bool, was_enabled: bool, former_kind: c_int);
    fn torch_ext_allow_tf32(allowed: bool);
}

/// Whether convolutions and matrix products on CUDA may round their float32 factors to TF32's ten
/// bits of fraction, which recent GPUs multiply several times faster. Holds for the whole process.
pub fn allow_tf32(allowed: bool) {
    // SAFETY: sets two flags of libtorch's global context.
    unsafe { torch_ext_allow_tf32(allowed) }
}

/// A floating point number in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The range of float32 with 8 bits of precision.
    Bfloat16,
    /// 11 bits of precision and a range from 6e-8 to 65504: gradients have to be scaled into it.
    Float16,
}

impl Half {
    /// libtorch's number for it (c10/core/ScalarType.h).
    fn number(self) -> c_int {
        match self {
            Self::Float16 => 5,
            Self::Bfloat16 => 15,
        }
    }
}

/// While it lives, operations of this thread on one kind of device choose their precision as under
/// `torch.autocast`: convolutions and matrix products compute in 16 bits, what needs the range
/// stays in float32. What held before holds again when it is dropped, on every path out.
#[derive(Debug)]
#[must_use = "autocast ends when this is dropped"]
pub struct Autocast {
    cuda: bool,
    was_enabled: bool,
    former_kind: c_int,
    /// The state is the thread's own.
    _not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Computes in 16 bits where that is safe.
    ///
    /// # Errors
    /// If libtorch refuses it.
    pub fn to(half: Half, device: Device) -> Result<Self> {
        Self::begin(true, half, device)
    }

    /// Computes in the tensors' own precision, whatever holds around.
    ///
    /// # Errors
    /// If libtorch refuses it.
    pub fn off(device: Device) -> Result<Self> {
        Self::begin(false, Half::Bfloat16, device)
    }

    fn begin(enabled: bool, half: Half, device: Device) -> Result<Self> {
        let cuda = matches!(device, Device::Cuda(_));
        let (mut was_enabled, mut former_kind) = (false, 0);
        // SAFETY: both results live through the call.
        check(unsafe { torch_ext_autocast(cuda, enabled, half.number(), &raw mut was_enabled, &raw mut former_kind) })?;
        Ok(Self { cuda, was_enabled, former_kind, _not_send: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: gives back what `begin` found, on the same thread.
        unsafe { torch_ext_autocast_end(self.cuda, self.was_enabled, self.former_kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use tch::{Kind, Tensor};

    fn product() -> Kind {
        let matrix = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        matrix.matmul(&matrix).kind()
    }

    #[test]
    fn what_held_before_holds_again_on_every_path_out() {
        assert_eq!(product(), Kind::Float);
        {
            let _outer = Autocast::to(Half::Bfloat16, Device::Cpu).unwrap();
            assert_eq!(product(), Kind::BFloat16);
            {
                let _inner = Autocast::off(Device::Cpu).unwrap();
                assert_eq!(product(), Kind::Float);
                let _innermost = Autocast::to(Half::Float16, Device::Cpu).unwrap();
                assert_eq!(product(), Kind::Half);
            }
            assert_eq!(product(), Kind::BFloat16);
            let fails = || -> Result<()> {
                let _guard = Autocast::off(Device::Cpu)?;
                Err(Error::ZeroByte(String::new()))
            };
            fails().unwrap_err();
            assert_eq!(product(), Kind::BFloat16);
            let panics = std::panic::catch_unwind(|| {
                let _guard = Autocast::off(Device::Cpu).unwrap();
                std::panic::resume_unwind(Box::new(()));
            });
            panics.unwrap_err();
            assert_eq!(product(), Kind::BFloat16);
        }
        assert_eq!(product(), Kind::Float);
    }

    #[test]
    fn weights_that_have_moved_are_converted_anew() {
        let weight = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let one = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let sum = || {
            let _guard = Autocast::to(Half::Bfloat16, Device::Cpu).unwrap();
            one.matmul(&weight).sum(Kind::Float).double_value(&[])
        };
        assert_eq!(sum(), 8.0);
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(2.0));
        assert_eq!(sum(), 16.0);
    }
}
