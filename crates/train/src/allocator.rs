//! Memory for the whole process. On Linux jemalloc takes malloc's place, so libtorch's tensors come
//! from it too.

use std::ffi::{CStr, c_char};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A network asks for tensors of the same sizes step after step: freed memory stays in the process,
/// large blocks are treated as all others, and huge pages, where the system has them, spare most
/// page faults. Each arena keeps what was freed in it, so there are few. The environment variable
/// `MALLOC_CONF` overrides single options.
const OPTIONS: &CStr = c"dirty_decay_ms:-1,oversize_threshold:0,thp:always,narenas:4";

/// A `const char *`.
#[repr(transparent)]
struct Pointer(*const c_char);

// SAFETY: what it points to is never written.
unsafe impl Sync for Pointer {}

/// jemalloc reads its options under this name, to the NUL at their end.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: Pointer = Pointer(OPTIONS.as_ptr());

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
        let size = 1usize << 28;
        let tensor = || Tensor::ones([size as i64], (Kind::Uint8, Device::Cpu));
        let before = resident().unwrap();
        drop(tensor());
        let after = resident().unwrap();
        assert!(after > before + size / 2, "{before} bytes before, {after} after");
        let again = tensor();
        let now = resident().unwrap();
        assert!(now < after + size / 2, "{after} bytes before, {now} with {:?} again", again.size());
    }
}
