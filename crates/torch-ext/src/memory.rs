//! How much memory was in use.

use crate::error::check;
use std::ffi::c_char;
use tch::Device;

unsafe extern "C" {
    fn torch_ext_peak_cuda_memory(device: i64, kept: bool, bytes: *mut u64) -> *mut c_char;
    fn torch_ext_restart_peak_cuda_memory(device: i64) -> *mut c_char;
}

/// The most memory in bytes that was in use so far: of the whole process on the CPU, where the
/// system tells, and of the tensors and what is kept for them on a CUDA device.
pub fn peak_memory(device: Device) -> Option<u64> {
    peak(device, true)
}

/// As [`peak_memory`], but of a CUDA device that of the tensors alone, since the last
/// [`restart_peak_memory`].
pub fn peak_tensor_memory(device: Device) -> Option<u64> {
    peak(device, false)
}

/// Lets the peak of a CUDA device begin anew; that of a process cannot.
pub fn restart_peak_memory(device: Device) {
    if let Device::Cuda(number) = device {
        // SAFETY: no argument is a pointer. A device without such figures has none to restart.
        let _ = check(unsafe { torch_ext_restart_peak_cuda_memory(number as i64) });
    }
}

fn peak(device: Device, kept: bool) -> Option<u64> {
    match device {
        Device::Cpu => {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(1024 * kilobytes)
        }
        Device::Cuda(number) => {
            let mut bytes = 0;
            // SAFETY: the result lives through the call.
            check(unsafe { torch_ext_peak_cuda_memory(number as i64, kept, &raw mut bytes) }).ok()?;
            Some(bytes)
        }
        _ => None,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn the_peak_grows_with_what_is_used_and_stays() {
        let before = peak_memory(Device::Cpu).unwrap();
        let size = 4 * (before as i64 / 4 + (64 << 20));
        drop(Tensor::ones([size], (Kind::Uint8, Device::Cpu)));
        assert!(peak_memory(Device::Cpu).unwrap() >= size as u64);
    }
}
