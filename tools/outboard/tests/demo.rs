//! The demonstration, as a user runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

#[test]
fn demo_of_all_devices_verifies_and_measures() {
    let output = Command::new(env!("CARGO_BIN_EXE_outboard"))
        .args(["demo", "--seconds=0.05", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let reports = json["reports"].as_array().unwrap();
    let seen: Vec<_> =
        reports.iter().map(|it| (it["device"].as_str().unwrap(), it["ring"].as_str().unwrap())).collect();
    let expected = ["rng", "blk", "net", "i2c", "vsock", "gpio", "scmi", "input", "console"];
    let expected = expected.map(|device| [(device, "split"), (device, "packed")]);
    assert_eq!(seen, expected.as_flattened());
    for report in reports {
        assert!(
            report.get("error").is_none() && report["verified"].as_array().unwrap().len() >= 2,
            "{report}"
        );
        for figure in report["measured"].as_array().unwrap() {
            assert!(figure["requests_per_second"].as_f64().unwrap() > 0.0, "{figure}");
        }
    }
}

#[test]
fn demo_of_an_unknown_device_says_which_there_are() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_outboard")).args(["demo", "--device=toaster"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("blk, console, gpio, i2c, input, net, rng, scmi, vsock")
    );
}
