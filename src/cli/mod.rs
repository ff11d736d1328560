//! The command line: maps arguments to library calls and errors to exit codes. One file per command. Results go to
//! stdout, progress and errors to stderr.

mod apply;
mod args;
mod evaluate;
mod files;
mod help;
mod inspect;
mod output;
mod progress;
mod purify;
mod revert;
mod run;
mod scan;
mod settings;
mod verify;
mod watcher;

use std::{
    io::Write as _,
    panic,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{Parser, Subcommand};

use crate::{Error, error::without_controls as escaped, pipeline::RunOptions};

/// Remove backdoors from ONNX image classifiers
#[derive(Debug, Parser)]
#[command(name = "polarizer", version, max_term_width = 100, subcommand_required = true, after_help = help::COMMAND)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Options of every command.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Global {
    /// Worker threads; the default is one per core
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print only the result, no progress
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Scan(scan::Args),
    Purify(Box<purify::Args>),
    Verify(verify::Args),
    Evaluate(evaluate::Args),
    Apply(apply::Args),
    Revert(revert::Args),
}

/// Set by Ctrl-C; long work polls it.
static STOP: AtomicBool = AtomicBool::new(false);

/// Global options of a run.
#[derive(Clone, Copy)]
struct Context {
    threads: Option<usize>,
    quiet: bool,
}

impl Context {
    fn interrupted(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }

    /// The corresponding options of the library.
    fn options(&self) -> RunOptions {
        RunOptions { threads: self.threads, ..RunOptions::default() }
    }
}

/// Runs the command given by the process's arguments.
pub fn main() -> ExitCode {
    one_line_for_a_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print(); // also --help and --version
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let outcome = panic::catch_unwind(|| run(cli));
    let error = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => error,
        Err(_) => return ExitCode::from(3), // the hook has reported it
    };
    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // the reader of our output closed the pipe
    }
    let (text, code) = match error.downcast_ref::<Error>() {
        Some(ours) => (settings::with_options(ours), ours.exit_code()), // already includes its cause
        None => (format!("{error:#}"), 3),
    };
    let _ = writeln!(std::io::stderr(), "error: {}", escaped(&text));
    ExitCode::from(code)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Global { threads, quiet } = cli.global;
    let context = Context { threads: threads.map(usize::from), quiet };
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130); // second Ctrl-C: exit at once
        }
    })
    .map_err(Error::internal)?;
    match cli.command {
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Scan(args) => scan::run(&args, context),
        Command::Purify(args) => purify::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Evaluate(args) => evaluate::run(&args, context),
        Command::Apply(args) => apply::run(&args, context),
        Command::Revert(args) => revert::run(&args),
    }
}

/// Reports the first panic as one line, however many threads panic.
fn one_line_for_a_panic() {
    static SAID: AtomicBool = AtomicBool::new(false);
    panic::set_hook(Box::new(|info| {
        if crate::base::guard::guarding() || SAID.swap(true, Ordering::Relaxed) {
            return;
        }
        let text = info.payload_as_str().unwrap_or("unknown");
        let at = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "internal fault: {}{at}", escaped(text));
    }));
}

/// Prints a result.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(escaped(text).as_bytes())?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
