//! `--print-capabilities`, `--help`, `--version`.

use crate::program::Start;

const CAPABILITIES: &str = "{\"features\":[],\"type\":\"rng\"}\n";

#[test]
fn capabilities_with_other_options_of_any_kind_are_all_that_is_printed() {
    for args in [
        ["--print-capabilities"].as_slice(),
        &["--print-capabilities", "--fd=3", "--socket-path=/nonexistent/socket"],
        &["--no-such-option", "--print-capabilities", "--log-level=nonsense"],
        &["--open", "--print-capabilities"],
        &["stray", "--help", "--fd", "--print-capabilities", "--version"],
    ] {
        let result = Start::with(args).run();
        assert_eq!(result, (Some(0), CAPABILITIES.into(), String::new()), "{args:?}");
    }
}

#[test]
fn capabilities_with_a_socket_path_create_nothing() {
    let start = Start::with(&["--print-capabilities"]).socket();
    let path = start.path("socket");
    let mut running = start.spawn();
    assert_eq!(running.end().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn capabilities_with_standard_input_closed_are_printed() {
    let result = Start::with(&["--print-capabilities"]).close(&[0]).run();
    assert_eq!(result, (Some(0), CAPABILITIES.into(), String::new()));
    let result = Start::with(&["--print-capabilities"]).close(&[0, 2]).run();
    assert_eq!(result, (Some(0), CAPABILITIES.into(), String::new()));
}

#[test]
fn help_and_version_go_to_standard_output() {
    for option in ["--help", "-h", "--version", "-V"] {
        let (code, out, err) = Start::with(&[option]).run();
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains("test-device"), "{out}");
    }
}
