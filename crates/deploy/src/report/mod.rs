//! A page about what runs did: one HTML file that needs nothing else, its pictures also as SVG.

mod chart;
mod compare;
mod figures;
mod found;
mod html;
mod page;
mod thumbnails;
mod write;

pub use found::Found;
pub use write::{FIGURES, PAGE, write};
