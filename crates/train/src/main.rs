//! The `train` program: command line, wiring, exit codes.

mod allocator;
mod commands;
mod device;
mod done;
mod early;
mod images;
mod signals;
mod source;
mod table;
mod usage;
mod waiting;

use clap::{Parser, Subcommand};
use commands::{
    bench, calibrate, config, data, eval, export, fit, inspect, measure, predict, prune, report, runtime_worker,
    shrink, sweep,
};
use done::Done;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use trainer::config::ConfigError;
use usage::Usage;

/// Learns which layers and filters of a network are worth their compute, with Gumbel gates.
#[derive(Parser)]
#[command(name = "train", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted (state saved).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Shrink(shrink::Args),
    Sweep(sweep::Args),
    Fit(fit::Args),
    Eval(eval::Args),
    Calibrate(calibrate::Args),
    Config(config::Args),
    Prune(prune::Args),
    Export(export::Args),
    Bench(bench::Args),
    Measure(measure::Args),
    Inspect(inspect::Args),
    Predict(predict::Args),
    Report(report::Args),
    Data(data::Args),
    #[command(hide = true)]
    RuntimeWorker(runtime_worker::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and versions go to the standard output, and are results too.
        Err(told) if !told.use_stderr() => return exit_code(print(&told.render().to_string()), 0),
        Err(wrong) => wrong.exit(),
    };
    if early::stdout_was_closed() {
        return exit_code(print("a result"), 0);
    }
    // What is float32 is float32, unless a configuration says otherwise.
    torch_ext::allow_tf32(false);
    limit_threads();
    waiting::adapt();
    let outcome = match cli.command {
        Command::Shrink(args) => shrink::run(args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Fit(args) => fit::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Config(args) => config::run(args),
        Command::Prune(args) => prune::run(args),
        Command::Export(args) => export::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Measure(args) => measure::run(&args),
        Command::Inspect(args) => inspect::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Report(args) => report::run(&args),
        Command::Data(args) => data::run(args),
        Command::RuntimeWorker(args) => runtime_worker::run(&args),
    };
    match outcome {
        Ok(Done { stdout, stderr, code }) => {
            let printed = print(&stdout);
            let _ = io::stderr().write_all(stderr.as_bytes());
            exit_code(printed, code)
        }
        Err(error) => {
            // Every error's own text tells its cause.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(if is_wrong_usage(&error) { 2 } else { 1 })
        }
    }
}

/// Holds libtorch to the cores that the process may use, of which it sees the processor affinity
/// but not the quota of a container (cgroup v1 and v2). `OMP_NUM_THREADS` decides otherwise.
fn limit_threads() {
    let decided = std::env::var_os("OMP_NUM_THREADS").is_some();
    let Ok(allowed) = std::thread::available_parallelism() else { return };
    let allowed = i32::try_from(allowed.get()).unwrap_or(i32::MAX);
    if !decided && allowed < tch::get_num_threads() {
        tch::set_num_threads(allowed);
    }
}

/// Writes a result to the standard output. A reader that went away, such as head, has what it
/// wanted.
fn print(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    if early::stdout_was_closed() {
        return Err(io::Error::other("it is closed"));
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// `code`, or 1 where the result could not be written.
fn exit_code(printed: io::Result<()>, code: u8) -> ExitCode {
    match printed {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot write the result to the standard output: {error}");
            ExitCode::from(if code == 0 { 1 } else { code })
        }
    }
}

/// Whether the command line or the configuration is to blame.
fn is_wrong_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.is::<trainer::config::Faults>()
        || matches!(error.downcast_ref(), Some(ConfigError::Faults(_) | ConfigError::Read { .. }))
        || matches!(error.downcast_ref(), Some(trainer::Error::Config(_)))
        || matches!(error.downcast_ref(), Some(arch::Error::UnknownPreset { .. }))
        || matches!(
            error.downcast_ref(),
            Some(deploy::Error::Config(_) | deploy::Error::Trainer(trainer::Error::Config(_)))
        )
}
