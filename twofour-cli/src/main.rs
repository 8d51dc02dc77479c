//! The binary `twofour`: see [`twofour_cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    twofour_cli::main()
}
