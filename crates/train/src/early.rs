//! What must be done before the libraries that this program is linked with start.
//!
//! libtorch's OpenMP library reads its environment when it is loaded, before `main`. The linker runs
//! what stands in `.preinit_array` before that, when nothing else has been set up: no allocation, no
//! environment of the standard library, no output.

use std::sync::atomic::{AtomicBool, Ordering};

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the program was started without a standard output. Rust's runtime opens `/dev/null` in
/// its place, where results would vanish.
pub(crate) fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use super::STDOUT_WAS_CLOSED;
    use libc::{AT_BASE, F_GETFD, STDOUT_FILENO, c_char, c_int, execve, fcntl, getauxval};
    use std::ffi::CStr;
    use std::ptr::null;
    use std::sync::atomic::Ordering;

    /// Threads that wait for work sleep instead of spinning. Where other work shares the cores,
    /// spinning threads take the time of those they wait for: a step can take thirty times as long.
    const PASSIVE: &CStr = c"OMP_WAIT_POLICY=passive";

    /// Settings by which a user decides how threads wait; they are left alone.
    const DECIDED: [&[u8]; 3] = [b"OMP_WAIT_POLICY=", b"GOMP_SPINCOUNT=", b"KMP_BLOCKTIME="];

    /// Room for an environment. A larger one is left as it is.
    const MOST_VARIABLES: usize = 4096;

    #[used]
    #[unsafe(link_section = ".preinit_array")]
    static EARLY: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) = early;

    /// Starts the program once more, in this process, with [`PASSIVE`] in its environment, unless
    /// the user has decided. At this point that takes a few milliseconds.
    unsafe extern "C" fn early(_: c_int, arguments: *const *const c_char, environment: *const *const c_char) {
        // SAFETY: the linker gives the arguments and the environment of `main`, both ended by a null
        // pointer. The functions called are system calls, or read what the kernel left.
        unsafe {
            STDOUT_WAS_CLOSED.store(fcntl(STDOUT_FILENO, F_GETFD) == -1, Ordering::Relaxed);
            // Without a base the linker itself was started, with this program as its argument.
            if getauxval(AT_BASE) == 0 {
                return;
            }
            let mut longer = [null(); MOST_VARIABLES + 2];
            let mut count = 0;
            while !(*environment.add(count)).is_null() {
                let variable = *environment.add(count);
                let text = CStr::from_ptr(variable).to_bytes();
                if count == MOST_VARIABLES || DECIDED.iter().any(|decided| text.starts_with(decided)) {
                    return;
                }
                longer[count] = variable;
                count += 1;
            }
            longer[count] = PASSIVE.as_ptr();
            // Where it fails, threads spin, and the program works.
            execve(c"/proc/self/exe".as_ptr(), arguments, longer.as_ptr());
        }
    }
}

/// Holds libtorch to the cores that the process may use, of which it sees the processor affinity but
/// not the quota of a container (cgroup v1 and v2). `OMP_NUM_THREADS` decides otherwise.
pub(crate) fn limit_threads() {
    let decided = std::env::var_os("OMP_NUM_THREADS").is_some();
    let Ok(allowed) = std::thread::available_parallelism() else { return };
    let allowed = i32::try_from(allowed.get()).unwrap_or(i32::MAX);
    if !decided && allowed < tch::get_num_threads() {
        tch::set_num_threads(allowed);
    }
}
