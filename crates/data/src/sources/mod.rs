//! Images in folders: the layouts a data set may have, and their index.

pub(crate) mod archives;
mod chunks;
mod class_folders;
pub(crate) mod class_names;
pub(crate) mod dataset;
mod indexed;
mod kept_index;
mod labels;
mod members;
mod names;
mod natural_order;
mod pairing;
mod shards;
pub(crate) mod split;
pub(crate) mod walk;
