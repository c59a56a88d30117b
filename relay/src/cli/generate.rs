//! `msrp-relay completions` and `msrp-relay man`: made from the command line's own definition, so that they say what it
//! takes. `msrp-relay schema`: the same of the configuration.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::config;

/// The options of `msrp-relay completions`.
#[derive(Debug, Args)]
#[command(after_help = "For all users of this machine:\n  \
    msrp-relay completions bash > /usr/share/bash-completion/completions/msrp-relay\n  \
    msrp-relay completions zsh  > /usr/local/share/zsh/site-functions/_msrp-relay\n  \
    msrp-relay completions fish > /usr/share/fish/vendor_completions.d/msrp-relay.fish")]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// The options of `msrp-relay man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder, such as /usr/local/share/man/man1; without it, the page of
    /// msrp-relay itself goes to standard output.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// The options of `msrp-relay schema`.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Print the reference of all keys instead, as Markdown: docs/configuration.md.
    #[arg(long)]
    markdown: bool,
}

pub(super) fn schema(args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let text = if args.markdown { config::markdown_reference() } else { config::json_schema() };
    print(text.as_bytes())
}

pub(super) fn completions(args: &CompletionsArgs, command: Command) -> anyhow::Result<ExitCode> {
    print(&completion(args.shell, command))
}

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    match &args.output {
        Some(folder) => {
            pages(folder, command)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            print(&page)
        }
    }
}

fn completion(shell: Shell, mut command: Command) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    if shell != Shell::Bash {
        return script;
    }
    // clap_complete 4.6 calls a command whose name has a hyphen by two names in this script: `msrp__relay` where it is
    // found, `msrp__subcmd__relay` where its options are, so that nothing was completed.
    names(&command).iter().filter(|name| name.contains('-')).fold(script, |script, name| {
        let script = String::from_utf8_lossy(&script);
        script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")).into_bytes()
    })
}

/// The names of a command and all under it.
fn names(command: &Command) -> Vec<String> {
    let mut found = vec![command.get_name().to_owned()];
    found.extend(command.get_subcommands().flat_map(names));
    found
}

fn pages(folder: &Path, command: Command) -> anyhow::Result<()> {
    let failed = || format!("cannot write man pages to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    clap_mangen::generate_to(command, folder).with_context(failed)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    /// Every command with the way to it: `["msrp-relay", "ctl", "sessions"]`. Not `help`, and not what is hidden.
    fn commands() -> Vec<(Vec<String>, Command)> {
        fn collect(way: &[String], command: &Command, found: &mut Vec<(Vec<String>, Command)>) {
            let mut way = way.to_vec();
            way.push(command.get_name().to_owned());
            let children = command.get_subcommands().filter(|child| child.get_name() != "help");
            for child in children.filter(|child| !child.is_hide_set()) {
                collect(&way, child, found);
            }
            found.push((way, command.clone()));
        }
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        collect(&[], &command, &mut found);
        assert!(found.len() > 20);
        found
    }

    fn longs(command: &Command) -> impl Iterator<Item = &str> {
        command.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(clap::Arg::get_long)
    }

    #[test]
    fn every_shell_knows_every_command_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completion(shell, Cli::command())).unwrap();
            for (way, command) in commands() {
                // clap_complete goes no deeper for fish.
                if shell == Shell::Fish && way.len() > 3 {
                    continue;
                }
                assert!(script.contains(way.last().unwrap()), "{shell}: {way:?}");
                for long in longs(&command) {
                    assert!(script.contains(long), "{shell}: {way:?} --{long}");
                }
            }
        }
    }

    #[test]
    fn bash_completes_what_was_begun() {
        let complete = |words: &[&str]| {
            let mut script = completion(Shell::Bash, Cli::command());
            let (last, cword) = (words[words.len() - 1], words.len() - 1);
            let call = format!(
                "\nCOMP_WORDS=({}); COMP_CWORD={cword}\nway=$(complete -p msrp-relay); way=${{way#*-F }}\n\
                 ${{way%% *}} msrp-relay '{last}' ''; echo \"${{COMPREPLY[@]}}\"\n",
                words.iter().map(|word| format!("'{word}' ")).collect::<String>(),
            );
            script.extend_from_slice(call.as_bytes());
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("script");
            std::fs::write(&path, script).unwrap();
            let output = std::process::Command::new("bash").arg(&path).output().unwrap();
            assert!(output.stderr.is_empty() && output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(complete(&["msrp-relay", "ctl", "sess"]), "sessions\n");
        assert_eq!(complete(&["msrp-relay", "ctl", "sessions", "--wat"]), "--watch\n");
        assert_eq!(complete(&["msrp-relay", "che"]), "check\n");
        assert_eq!(complete(&["msrp-relay", "ctl", "log-level", "--js"]), "--json\n");
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("share/man1");
        pages(&path, Cli::command()).unwrap();
        let commands = commands();
        for (way, command) in &commands {
            let file = path.join(format!("{}.1", way.join("-")));
            let page = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{way:?}: {error}"));
            let page = page.replace("\\-", "-");
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{way:?}");
            let about = command.get_about().unwrap_or_else(|| panic!("{way:?} says nothing")).to_string();
            let first = about.split(['`', '\'', '\n']).next().unwrap_or_default();
            assert!(page.contains(first), "{way:?}: {about}");
            for long in longs(command) {
                assert!(page.contains(&format!("--{long}")), "{way:?}: --{long}");
            }
        }
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), commands.len());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(pages(&file, Cli::command()).is_err());
    }
}
