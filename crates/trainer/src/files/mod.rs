//! Files written whole or not at all, and the folder of a run.

pub(crate) mod atomic;
pub(crate) mod run_dir;
