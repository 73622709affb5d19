//! Memory for the whole process. jemalloc takes malloc's place, so libtorch's tensors come from it too.

use std::ffi::{CStr, c_char};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A network asks for tensors of the same sizes step after step: freed memory stays in the process, large blocks are treated as all
/// others, and huge pages spare most page faults. The environment variable `MALLOC_CONF` overrides single options.
const OPTIONS: &CStr = c"dirty_decay_ms:-1,oversize_threshold:0,thp:always";

/// jemalloc looks for a C string under this name.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: Option<&'static c_char> = {
    // SAFETY: points to the first of the string's bytes, which live as long as the program.
    Some(unsafe { &*OPTIONS.as_ptr() })
};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tch::{Device, Kind, Tensor};

    fn resident() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?)
    }

    #[test]
    fn tensors_come_from_it_and_their_memory_stays() {
        let size = 1 << 28;
        let before = resident().unwrap();
        drop(Tensor::ones([size], (Kind::Uint8, Device::Cpu)));
        let after = resident().unwrap();
        assert!(after - before > size as usize / 10 * 9, "{before} bytes before, {after} after");
        let again = Tensor::ones([size], (Kind::Uint8, Device::Cpu));
        let most = after + size as usize / 10;
        assert!(resident().unwrap() < most, "{:?} bytes with {:?} again, {after} before", resident(), again.size());
    }
}
