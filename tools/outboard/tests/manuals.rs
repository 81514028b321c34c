//! `outboard man` and `outboard completions`: every program and subcommand, with every option that `--help` shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn outboard(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outboard")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The subcommands that `--help` lists.
fn subcommands() -> Vec<String> {
    let help = text(&outboard(&["--help"]));
    let list = help.split_once("Commands:\n").unwrap().1.split("\n\n").next().unwrap().to_owned();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> = names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    names.into_iter().filter(|name| name != "help").collect()
}

/// The long options that begin a line of a help text.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '=', '[']).take(3));
    words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect()
}

#[test]
fn man_has_a_page_for_each_subcommand_with_all_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made").join("for this");
    let paths = text(&outboard(&["man", "--out", out.to_str().unwrap()]));
    let page = |name: &str| {
        let path = out.join(format!("{name}.1"));
        assert!(paths.lines().any(|line| line == path.to_str().unwrap()), "{name} is not in\n{paths}");
        std::fs::read_to_string(path).unwrap().replace("\\-", "-")
    };
    let names = subcommands();
    assert!(
        ["probe", "man", "run", "vm"].iter().all(|name| names.iter().any(|other| other == name)),
        "{names:?}"
    );
    let whole = page("outboard");
    for name in &names {
        assert!(whole.contains(&format!("outboard-{name}(1)")), "{name} is not in\n{whole}");
        let page = page(&format!("outboard-{name}"));
        assert!(page.contains(".SH DESCRIPTION"), "{page}");
        // `run` hands everything to the back end, --help as well.
        let help = if name == "run" { String::new() } else { text(&outboard(&[name, "--help"])) };
        for option in options(&help) {
            assert!(page.contains(&option), "{option} is not in the page of {name}");
        }
    }
    for device in ["blk", "console", "i2c", "input", "net", "rng", "vsock"] {
        let page = page(&format!("vhost-user-{device}"));
        let found = options(&text(&outboard(&["run", device, "--help"])));
        assert!(found.contains("--socket-path"), "{found:?}");
        for option in found {
            assert!(page.contains(&option), "{option} is not in the page of {device}");
        }
        assert!(page.contains(".SH EXAMPLE"), "{page}");
    }
}

#[test]
fn completions_are_scripts_that_know_the_options() {
    for (program, word) in
        [("outboard", "probe"), ("vhost-user-blk", "--blk-file"), ("vhost-user-rng", "--socket-path")]
    {
        for shell in ["bash", "zsh", "fish"] {
            let script = text(&outboard(&["completions", shell, "--program", program]));
            // fish and zsh write options in forms of their own.
            assert!(script.contains(word.trim_start_matches('-')), "{shell}: {word} is not in\n{script}");
            assert!(script.contains(program), "{shell}: {program} is not in\n{script}");
        }
        let script = text(&outboard(&["completions", "bash", "--program", program]));
        let mut bash =
            Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = bash.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn completions_of_an_unknown_program_name_the_known_ones() {
    let output = outboard(&["completions", "bash", "--program", "vhost-user-toaster"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("vhost-user-blk"), "{error}");
    assert!(output.stdout.is_empty());
}
