//! The command `polarizer`; all of it is in the library's `cli`.

fn main() -> std::process::ExitCode {
    polarizer::cli::main()
}
