//! A run from its first check to its last file.

pub(crate) mod dry_run;
pub(crate) mod fit;
pub(crate) mod gates;
pub(crate) mod prepare;
pub(crate) mod saving;
