//! Images in folders: the layouts a data set may have, and their index.

mod class_folders;
pub(crate) mod dataset;
mod kept_index;
mod labels;
mod names;
mod natural_order;
mod shards;
