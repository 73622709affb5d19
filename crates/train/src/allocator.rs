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

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap()
    }

    #[test]
    fn tensors_come_from_it_and_their_memory_stays() {
        let size = 1 << 28;
        let before = resident();
        drop(Tensor::ones([size], (Kind::Uint8, Device::Cpu)));
        let after = resident();
        assert!(after - before > size as usize / 10 * 9, "{before} bytes before, {after} after");
        let again = Tensor::ones([size], (Kind::Uint8, Device::Cpu));
        assert!(resident() - after < size as usize / 10, "{} bytes with {:?} again", resident(), again.size());
    }
}
