//! `train bench`

mod forms;
mod inference;
mod layers;
mod loader;
mod predicted;
mod random_gates;
mod step;

use crate::done::Done;
use anyhow::Result;
use clap::Subcommand;
use inference::{Inference, inference};
use loader::{Loading, loader};
use step::{Step, step};

/// Time what the program does
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inference(Inference),
    Loader(Loading),
    Step(Step),
}

pub(crate) fn run(args: Args) -> Result<Done> {
    match args.command {
        Command::Inference(args) => inference(&args),
        Command::Loader(args) => loader(&args),
        Command::Step(args) => step(&args),
    }
}
