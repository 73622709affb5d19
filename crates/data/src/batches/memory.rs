//! How many batches may wait.

use std::fs;

/// Batches of `batch_bytes` that may be kept ready: as [`crate::LoaderOptions::ahead`] says.
pub(crate) fn batches_ahead(batch_bytes: usize) -> usize {
    const MOST_BYTES: u64 = 1 << 30;
    let bytes = (available() / 16).min(MOST_BYTES);
    (bytes / batch_bytes.max(1) as u64).clamp(2, 16) as usize
}

/// Bytes of memory that are free for this process, as Linux tells; a cautious guess elsewhere.
fn available() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    // What files were read into memory can be given up.
    let files = fs::read_to_string("/sys/fs/cgroup/memory.stat")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok()));
    let container = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, used)| most.saturating_sub(used.saturating_sub(files.unwrap_or(0))));
    let system = system.map_or(UNKNOWN, |kilobytes| 1024 * kilobytes);
    system.min(container.unwrap_or(u64::MAX))
}
