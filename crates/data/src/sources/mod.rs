//! Images in folders: the layouts a data set may have, and their index.

mod chunks;
mod class_folders;
pub(crate) mod dataset;
mod indexed;
mod kept_index;
mod labels;
mod names;
mod natural_order;
mod shards;
pub(crate) mod split;
mod walk;
