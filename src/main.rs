//! The command `polarizer`; all of it is in the library's `cli`.

/// Activations that begin on a cache line make the kernels faster.
#[global_allocator]
static ALLOCATOR: polarizer::Aligned = polarizer::Aligned;

fn main() -> std::process::ExitCode {
    polarizer::cli::main()
}
