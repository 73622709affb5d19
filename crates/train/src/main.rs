//! The `train` program: command line, wiring, exit codes.

mod allocator;
mod commands;
mod device;
mod done;
mod images;
mod source;
mod table;
mod usage;

use clap::{Parser, Subcommand};
use commands::{bench, calibrate, config, data, eval, export, fit, inspect, predict, prune};
use done::Done;
use std::io::Write;
use std::process::ExitCode;
use usage::Usage;

/// Learns which layers and filters of a network are worth their compute, with Gumbel gates.
#[derive(Parser)]
#[command(name = "train", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted (state saved).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Fit(fit::Args),
    Eval(eval::Args),
    Calibrate(calibrate::Args),
    Config(config::Args),
    Prune(prune::Args),
    Export(export::Args),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Predict(predict::Args),
    Data(data::Args),
}

fn main() -> ExitCode {
    // What is float32 is float32, unless a configuration says otherwise.
    torch_ext::allow_tf32(false);
    let outcome = match Cli::parse().command {
        Command::Fit(args) => fit::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Config(args) => config::run(args),
        Command::Prune(args) => prune::run(args),
        Command::Export(args) => export::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Data(args) => data::run(args),
    };
    match outcome {
        Ok(Done { stdout, stderr, code }) => {
            // A reader that went away, such as head, has what it wanted.
            let _ = std::io::stdout().write_all(stdout.as_bytes());
            let _ = std::io::stderr().write_all(stderr.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => {
            // Every error's own text tells its cause.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(if is_wrong_usage(&error) { 2 } else { 1 })
        }
    }
}

/// Whether the command line or the configuration is to blame.
fn is_wrong_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.is::<trainer::config::Faults>()
        || matches!(error.downcast_ref(), Some(trainer::config::ConfigError::Faults(_)))
        || matches!(error.downcast_ref(), Some(trainer::Error::Config(_)))
        || matches!(error.downcast_ref(), Some(arch::Error::UnknownPreset { .. }))
}
