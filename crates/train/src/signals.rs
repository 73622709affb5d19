//! Signals that ask the program to stop.

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is set at the first signal that asks the program to stop, which is answered with `once`. The
/// second one stops it, behind `twice`.
pub(crate) fn stop_on_signals(once: &'static str, twice: &'static str) -> Result<Arc<AtomicBool>> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupt);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let again = set.swap(true, Ordering::Relaxed);
            let _ = writeln!(std::io::stderr(), "\n{}", if again { twice } else { once });
            if again {
                low_level::exit(130);
            }
        }
    });
    Ok(interrupt)
}
