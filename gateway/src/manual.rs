//! Shell completions and manual pages, made from the command line itself.
//!
//! The one hard constraint: both come from what the program takes, so neither can be out of date.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, ValueEnum};
use clap_complete::Shell;

/// Shells whose completions can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletedShell {
    /// For `/etc/bash_completion.d`
    Bash,
    /// For a folder of `fpath`, named `_portolan`
    Zsh,
    /// For `~/.config/fish/completions`
    Fish,
}

/// Prints completions for a shell.
///
/// # Errors
/// The output takes no more.
pub fn completions(
    mut command: Command,
    shell: CompletedShell,
    out: &mut impl Write,
) -> io::Result<()> {
    let shell = match shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    out.write_all(&script)
}

/// Prints the manual page of the program, or of one of its commands.
///
/// # Errors
/// There is no such command, or the output takes no more.
pub fn page(mut command: Command, of: Option<&str>, out: &mut impl Write) -> io::Result<()> {
    // Only now do the commands know that they are commands of the program.
    command.build();
    let page = match of {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            let error = format!("there is no command `{name}`; see `portolan --help`");
            io::Error::new(io::ErrorKind::InvalidInput, error)
        })?,
    };
    clap_mangen::Man::new(page).manual("Portolan").render(out)
}

/// Writes all manual pages to a folder, which is made if it is not there. Returns how many.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn write_pages(command: Command, folder: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let command = command.disable_help_subcommand(true);
    let count = 1 + command.get_subcommands().count();
    clap_mangen::generate_to(command, folder)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        let run = Command::new("run").about("Run it").arg(Arg::new("config").long("config"));
        Command::new("portolan").version("1").about("Networks").subcommand(run)
    }

    #[test]
    fn completions_know_the_commands_and_their_options() {
        for shell in [CompletedShell::Bash, CompletedShell::Zsh, CompletedShell::Fish] {
            let mut script = Vec::new();
            completions(command(), shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("run") && script.contains("config"), "{shell:?}");
        }
    }

    #[test]
    fn each_command_has_its_page() {
        let page_of = |of| {
            let mut text = Vec::new();
            page(command(), of, &mut text).map(|()| String::from_utf8(text).unwrap())
        };
        assert!(page_of(None).unwrap().contains(".TH portolan 1"));
        assert!(page_of(Some("run")).unwrap().contains("portolan\\-run"));
        assert!(page_of(Some("rnu")).unwrap_err().to_string().contains("no command `rnu`"));
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("man");
        assert_eq!(write_pages(command(), &folder).unwrap(), 2);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        assert!(folder.join("portolan-run.1").exists());
    }
}
