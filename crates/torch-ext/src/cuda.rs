use std::sync::OnceLock;

unsafe extern "C" {
    fn torch_ext_load_cuda() -> bool;
}

/// Whether a CUDA device can be used. Ask before the first tensor is made: libtorch looks for its CUDA half once.
///
/// The CUDA libraries (about 2 GB) are loaded by the first call and not at program start, so a run on the CPU starts fast.
pub fn cuda_is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // SAFETY: dlopen of a libtorch library; its static initialisers only register back ends.
        let loaded = unsafe { torch_ext_load_cuda() };
        loaded && tch::Cuda::is_available()
    })
}
