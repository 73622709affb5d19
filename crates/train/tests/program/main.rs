//! The program as a user meets it.

mod cli;
mod deploy;
