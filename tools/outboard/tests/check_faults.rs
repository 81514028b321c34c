//! The checks are checked: each passes on a back end that is right, and fails on one that has the fault it looks for.
//!
//! The one that has faults on request is `vhost-user-faulty`, which says of each fault which checks must fail with
//! it. A check that no fault names could be one that cannot fail, and is an error here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Checks of what no right back end of ours offers: nothing to pass, but something to fail.
const ONLY_WITH_A_FAULT: &[&str] = &["negotiation.iommu-needs-back-channel"];

/// The faults are spread over so many tests, which run at the same time.
const SHARES: usize = 8;

/// The device with the faults: built here, since it belongs to a package of its own.
fn faulty() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let outboard = PathBuf::from(env!("CARGO_BIN_EXE_outboard"));
        let dir = outboard.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "outboard-faulty", "--target-dir"]);
        build.arg(dir.parent().unwrap());
        if dir.ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "vhost-user-faulty does not build");
        dir.join("vhost-user-faulty")
    })
}

fn outboard(args: &[&str]) -> Value {
    with_fault("", args)
}

/// With a fault in the environment: some checks start the program with a command line of their own.
fn with_fault(fault: &str, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    let output = command.args(args).env("VHOST_USER_FAULTY", fault).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}\n{said}"))
}

/// The ids of all checks.
fn ids() -> BTreeSet<String> {
    let list = outboard(&["check", "--list", "--json"]);
    list.as_array().unwrap().iter().map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

/// Each fault with the checks that must fail with it.
fn faults() -> Vec<(String, Vec<String>)> {
    let output = Command::new(faulty()).arg("--list-faults").output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let faults = list.as_array().unwrap().iter();
    faults
        .map(|fault| (text(&fault["name"]), fault["fails"].as_array().unwrap().iter().map(text).collect()))
        .collect()
}

/// Verdict and reason of each check on a back end.
fn verdicts(fault: &str, options: &[&str], command: &[&str]) -> BTreeMap<String, (String, String)> {
    let report = with_fault(fault, &[&["check", "--json"], options, &["--"], command].concat());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks.map(|check| (text(&check["id"]), (text(&check["verdict"]), text(&check["reason"])))).collect()
}

/// Asserts that nothing fails of these checks, and returns what passes.
fn passing(only: &[&str], command: &[&str]) -> BTreeSet<String> {
    // A machine under load is slow, not wrong.
    let options = [&["--timeout", "30"], only].concat();
    let verdicts = verdicts("", &options, command);
    let failed: Vec<_> = verdicts.iter().filter(|(_, (verdict, _))| verdict == "fail").collect();
    assert!(failed.is_empty(), "{command:?}: {failed:#?}");
    let passed = verdicts.into_iter().filter(|(_, (verdict, _))| verdict == "pass");
    passed.map(|(id, _)| id).collect()
}

/// All of them, those of a disk, and those that a network has something of its own for.
const ALL: &[&str] = &[];
const OF_A_DISK: &[&str] = &["--device", "blk", "--only", "blk"];
const OF_A_NETWORK: &[&str] = &["--device", "net", "--only", "net,setup,ring"];
const OF_A_CONTROLLER: &[&str] = &["--device", "gpio", "--only", "gpio,setup"];
const OF_AN_ADAPTER: &[&str] = &["--device", "i2c", "--only", "i2c,setup"];
const OF_A_CONSOLE: &[&str] = &["--device", "console", "--only", "console"];
const OF_SOCKETS: &[&str] = &["--device", "vsock", "--only", "vsock,ring"];
const OF_A_PLATFORM: &[&str] = &["--device", "scmi", "--only", "scmi,ring"];

const OF_AN_INPUT: &[&str] = &["--device", "input", "--only", "input,setup"];

/// What the checks of some devices are told.
fn means(drive: &str) -> [&str; 8] {
    ["--i2c-chip", "0x50", "--gpio-wired", "0:1", "--input-drive", drive, "--vsock-echo", "7"]
}

/// The devices that the program can be, as options, and what to look at where all was looked at before.
fn devices<'a>(image: &'a str, drive: &'a str) -> Vec<(Vec<&'a str>, &'static [&'static str])> {
    vec![
        (vec!["--device", "blk"], ALL),
        (vec!["--device", "rng"], ALL),
        (vec!["--device", "blk", "--read-only"], ALL),
        (vec!["--device", "blk", "--blk-file", image], OF_A_DISK),
        (vec!["--device", "blk", "--zoned"], OF_A_DISK),
        (vec!["--device", "net"], OF_A_NETWORK),
        (vec!["--device", "i2c"], OF_AN_ADAPTER),
        (vec!["--device", "scmi"], OF_A_PLATFORM),
        (vec!["--device", "gpio"], OF_A_CONTROLLER),
        (vec!["--device", "input", "--drive", drive], OF_AN_INPUT),
        (vec!["--device", "console"], OF_A_CONSOLE),
        (vec!["--device", "vsock"], OF_SOCKETS),
    ]
}

/// A file for a disk.
fn image() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    image
}

#[test]
fn faultless_back_end_passes_every_check() {
    let faulty = faulty().to_str().unwrap();
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let drive = dir.path().join("drive");
    let drive = drive.to_str().unwrap();
    let mut passed = BTreeSet::new();
    for (device, only) in devices(image.path().to_str().unwrap(), drive) {
        let only = [only, &means(drive)].concat();
        passed.extend(passing(&only, &[&[faulty], device.as_slice()].concat()));
    }
    let never: Vec<_> = ids()
        .into_iter()
        .filter(|id| !passed.contains(id) && !ONLY_WITH_A_FAULT.contains(&id.as_str()))
        .collect();
    assert!(never.is_empty(), "checks that no right back end has passed: {never:#?}");
}

#[test]
fn every_check_has_a_fault_that_it_finds() {
    let named: BTreeSet<String> = faults().into_iter().flat_map(|(_, fails)| fails).collect();
    let ids = ids();
    assert!(ids.len() >= 120, "{} checks", ids.len());
    let blind: Vec<_> = ids.difference(&named).collect();
    assert!(blind.is_empty(), "checks that are not shown failing: {blind:#?}");
    let unknown: Vec<_> = named.difference(&ids).collect();
    assert!(unknown.is_empty(), "checks that there are not: {unknown:#?}");
}

/// Runs the checks of every [`SHARES`]th fault against it; all have to fail.
fn faults_are_found(share: usize) {
    let faulty = faulty().to_str().unwrap();
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let drive = dir.path().join("drive");
    let drive = drive.to_str().unwrap();
    let mut missed = Vec::new();
    for (fault, fails) in
        faults().into_iter().skip(share).step_by(SHARES).filter(|(_, fails)| !fails.is_empty())
    {
        let only = fails.join(",");
        let mut left: BTreeSet<String> = fails.into_iter().collect();
        let mut last = BTreeMap::new();
        for (device, _) in devices(image.path().to_str().unwrap(), drive) {
            if left.is_empty() {
                break;
            }
            let only = ["--timeout", "1", "--device", device[1], "--only", only.as_str()];
            let options = [&only[..], &means(drive)].concat();
            last = verdicts(&fault, &options, &[&[faulty], device.as_slice()].concat());
            left.retain(|id| last[id].0 != "fail");
        }
        missed.extend(left.iter().map(|id| format!("{id} with {fault}: {:?}", last[id])));
    }
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n"));
}

macro_rules! shares {
    ($($name:ident = $share:literal),*) => {
        $(#[test]
        fn $name() {
            faults_are_found($share);
        })*

        #[test]
        fn all_shares_are_run() {
            assert_eq!([$($share),*].len(), SHARES);
        }
    };
}

shares!(
    faults_of_share_0_are_found = 0,
    faults_of_share_1_are_found = 1,
    faults_of_share_2_are_found = 2,
    faults_of_share_3_are_found = 3,
    faults_of_share_4_are_found = 4,
    faults_of_share_5_are_found = 5,
    faults_of_share_6_are_found = 6,
    faults_of_share_7_are_found = 7
);

#[test]
fn our_disk_passes_every_check() {
    passing(ALL, &[env!("CARGO_BIN_EXE_outboard"), "run", "blk", "--ram", "16M"]);
}

#[test]
fn our_disk_in_a_file_passes_every_check_of_a_disk() {
    let image = image();
    let path = image.path().to_str().unwrap();
    for more in [&[][..], &["--block-size", "4096"], &["--direct"], &["--writeback", "off"]] {
        let command = [env!("CARGO_BIN_EXE_outboard"), "run", "blk", "--blk-file", path];
        let passed = passing(OF_A_DISK, &[&command, more].concat());
        assert!(passed.contains("blk.flush-survives-kill"), "{more:?}");
    }
}

#[test]
fn our_read_only_disk_passes_every_check() {
    passing(ALL, &[env!("CARGO_BIN_EXE_outboard"), "run", "blk", "--ram", "16M", "--read-only"]);
}

#[test]
fn our_network_interface_passes_every_check() {
    let options = ["--backend=loop", "--pairs=2", "--rss", "--mac=52:54:00:12:34:56", "--mtu=9000"];
    let command = [env!("CARGO_BIN_EXE_outboard"), "run", "net", "--log-level=error"];
    let passed = passing(ALL, &[&command[..], &options].concat());
    // It loops, and the control queue is its own: little is left out.
    for id in ["net.control-pairs", "net.rx-hash", "net.rx-segments", "net.config-rss", "net.mtu-message"] {
        assert!(passed.contains(id), "{id}");
    }
}

#[test]
fn our_gpio_controller_passes_every_check() {
    let options = ["--wire=0:1", "--lines=0=relay,1=sense,2-7", "--log-level=error"];
    let command = [&[env!("CARGO_BIN_EXE_outboard"), "run", "gpio"], &options[..]].concat();
    let passed = passing(&["--device", "gpio", "--gpio-wired", "0:1"], &command);
    assert_eq!(passed.iter().filter(|id| id.starts_with("gpio.")).count(), 19);
}

#[test]
fn our_input_device_passes_every_check() {
    let dir = tempfile::tempdir().unwrap();
    let drive = dir.path().join("drive");
    let drive = drive.to_str().unwrap();
    let kinds = ["--synthetic=keyboard", "--synthetic=tablet", "--log-level=error"];
    let command = [&[env!("CARGO_BIN_EXE_outboard"), "run", "input"], &kinds[..]].concat();
    passing(&["--device", "input"], &command);
    let driven = [&command[..], &["--drive", drive]].concat();
    let only = ["--device", "input", "--only", "input", "--input-drive", drive];
    let passed = passing(&only, &driven);
    assert_eq!(passed.len(), 15, "{passed:?}");
}

#[test]
fn program_with_what_is_there_but_once_passes_every_check_of_its_start() {
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let [drive, control] = ["drive", "control"].map(|name| dir.path().join(name));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for (device, options) in [
        ("blk", ["--blk-file".to_owned(), path(image.path())]),
        ("input", ["--drive".to_owned(), path(&drive)]),
        ("rng", ["--control".to_owned(), path(&control)]),
    ] {
        let run = [env!("CARGO_BIN_EXE_outboard"), "run", device, &options[0], &options[1]];
        let passed = passing(&["--only", "program"], &run);
        assert_eq!(passed.len(), 16, "{device}: {passed:?}");
    }
}

#[test]
fn program_that_does_not_start_again_is_told_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    // It starts once: what it is to read is gone by then.
    let script = "mv \"$0\" \"$0.gone\" && exec \"$@\"";
    let words = dir.path().join("words");
    std::fs::write(&words, "x").unwrap();
    let program = env!("CARGO_BIN_EXE_outboard");
    let shell =
        ["sh", "-c", script, words.to_str().unwrap(), program, "run", "rng", "--socket-path={socket}"];
    let only = ["--timeout", "30", "--device", "rng", "--only", "program.stale-socket"];
    let verdicts = verdicts("", &only, &shell);
    let (verdict, reason) = &verdicts["program.stale-socket"];
    assert_eq!(verdict, "fail");
    assert!(reason.contains("the first process does not listen: mv: "), "{reason}");
}

#[test]
fn our_i2c_adapter_passes_every_check() {
    let command = [env!("CARGO_BIN_EXE_outboard"), "run", "i2c", "--log-level=error"];
    let passed = passing(&["--i2c-chip", "0x50"], &command);
    assert_eq!(passed.iter().filter(|id| id.starts_with("i2c.")).count(), 20);
}

#[test]
fn our_entropy_device_passes_every_check() {
    passing(ALL, &[env!("CARGO_BIN_EXE_outboard"), "run", "rng"]);
}

#[test]
fn our_sockets_pass_every_check() {
    let run = [env!("CARGO_BIN_EXE_outboard"), "run", "vsock", "--guest-cid", "3", "--service", "7=echo"];
    let passed = passing(&["--device", "vsock", "--vsock-echo", "7"], &run);
    assert!(passed.contains("vsock.seqpacket-bounds"));
}

#[test]
fn our_platform_passes_every_check() {
    let passed = passing(&["--device", "scmi"], &[env!("CARGO_BIN_EXE_outboard"), "run", "scmi"]);
    assert!(passed.contains("scmi.notify-arrives"));
}

#[test]
fn our_console_device_passes_every_check() {
    let command = [env!("CARGO_BIN_EXE_outboard"), "run", "console", "--log-level=error"];
    passing(&["--device", "console"], &command);
    let echoes = [&command[..], &["--console=echo", "--port=name=echo,to=echo"]].concat();
    let passed = passing(OF_A_CONSOLE, &echoes);
    assert_eq!(passed.len(), 13, "{passed:?}");
}

#[test]
fn back_end_at_a_socket_that_dies_fails_one_check_and_skips_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut crashes = Command::new(faulty());
    crashes.args(["--device", "rng", "--fault", "cut-message-crashes", "--socket-path"]).arg(&socket);
    let mut child = crashes.spawn().unwrap();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended at once");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let only = "framing.cut-header,framing.cut-payload,framing.stray-fds";
    let path = socket.to_str().unwrap();
    let report = outboard(&["check", "--json", "--timeout", "2", "--device", "rng", "--only", only, path]);
    // If the checks did not end it: that is what the verdicts are about.
    let _ = child.kill();
    child.wait().unwrap();
    let checks = report["checks"].as_array().unwrap().iter();
    let verdicts: Vec<_> = checks.map(|check| check["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["fail", "skip", "skip"], "{report:#}");
}
