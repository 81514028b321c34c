//! The benchmark, as a user runs it, against our daemons and against devices that lie. Amounts are given as numbers of
//! requests; nothing here depends on how fast anything is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bench_devices;
mod rig;

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use bench_devices::{Liar, Network, Serving};
use rig::{Daemon, LONG, eventually, file_of};

const OUTBOARD: &str = env!("CARGO_BIN_EXE_outboard");

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(OUTBOARD);
    command.arg("bench").args(args).stdin(Stdio::null());
    command
}

/// Runs to the end; standard output and error as text.
fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// Runs with --json; it must succeed.
fn measured(args: &[&str]) -> Value {
    let output = bench(args).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{args:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

/// Runs; it must fail with status 1, quickly. What it says about it.
fn failure(args: &[&str]) -> String {
    let start = Instant::now();
    let output = bench(args).output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {out}{err}");
    assert!(start.elapsed() < LONG && out.is_empty(), "{out}");
    err
}

/// The figures of the only round of a measurement.
fn round(json: &Value) -> &Value {
    assert_eq!(json["targets"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["targets"][0]["rounds"].as_array().unwrap().len(), 1, "{json}");
    &json["targets"][0]["rounds"][0]
}

/// Checks what must hold of any figures of `requests`.
fn consistent(round: &Value, requests: u64) {
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {round}"));
    assert_eq!(round["requests"], requests, "{round}");
    let rate = number(&round["requests_per_second"]);
    let expected = requests as f64 / number(&round["seconds"]);
    assert!((rate - expected).abs() < expected / 1e6, "{round}");
    let both: u64 = ["in", "out"].iter().filter_map(|way| round[way]["requests"].as_u64()).sum();
    assert_eq!(both, requests, "{round}");
    let latency = &round["latency_us"];
    assert_eq!(latency["timed"], requests, "without a warm-up all are timed: {round}");
    let percentiles = ["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(|name| number(&latency[name]));
    assert!(percentiles.is_sorted() && percentiles[0] > 0.0, "{latency}");
    // Three digits are kept.
    assert!(number(&latency["max"]) <= number(&round["seconds"]) * 1.01e6, "{round}");
    // It may be less than what the kernel has counted so far.
    assert!(number(&round["back_end"]["cpu_us_per_request"]) >= 0.0, "{round}");
    assert!(
        number(&round["kicks_per_request"]) <= 1.0 && number(&round["calls_per_request"]) <= 1.0,
        "{round}"
    );
}

#[test]
fn blk_of_every_access_counts_exactly_what_was_asked_for() {
    for (access, inward) in
        [("read", 600), ("write", 0), ("randread", 600), ("randwrite", 0), ("randrw", 300)]
    {
        for format in ["split", "packed"] {
            let json = measured(&[
                "blk",
                "--rw",
                access,
                "--requests=600",
                "--queues=2",
                "--bs=8K",
                "--json",
                "--format",
                format,
                "--",
                OUTBOARD,
                "run",
                "blk",
                "--log-level=warn",
            ]);
            assert_eq!(
                (json["job"]["rw"].as_str(), json["job"]["format"].as_str()),
                (Some(access), Some(format))
            );
            let round = round(&json);
            consistent(round, 600);
            assert_eq!(round["bytes"], 600 * 8192);
            let found = round["in"]["requests"].as_u64().unwrap_or(0);
            let tolerance = if access == "randrw" { 100 } else { 0 };
            assert!(found.abs_diff(inward) <= tolerance, "{access}: {found} reads");
        }
    }
}

#[test]
fn blk_by_polling_in_batches_without_features_measures_as_well() {
    let plain = ["--no-event-idx", "--no-indirect"];
    let fancy = ["--in-order", "--inflight"];
    for (options, format) in [(plain, "split"), (fancy, "packed")] {
        let mut args =
            vec!["blk", "--requests=400", "--wait=poll", "--batch=8", "--json", "--format", format];
        args.extend(options);
        args.extend(["--", OUTBOARD, "run", "blk", "--log-level=warn"]);
        let json = measured(&args);
        consistent(round(&json), 400);
        assert_eq!(round(&json)["calls_per_request"], 0.0, "who polls is not called");
    }
}

#[test]
fn blk_verified_finds_nothing_wrong_with_an_honest_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 4 << 20);
    let file = format!("--blk-file={}", path.display());
    let back = ["--", OUTBOARD, "run", "blk", "--log-level=warn", &file];
    let run = |options: &[&str]| {
        let all = ["blk", "--verify", "--json", "--requests=1024"].iter().chain(options).chain(&back);
        measured(&all.copied().collect::<Vec<_>>())
    };
    let json = run(&["--rw=randrw", "--queues=2", "--flush-every=50", "--rwmixread=40"]);
    assert!(round(&json)["flushes"].as_u64().unwrap() > 5);
    // The whole disk, so that it can be read back by somebody else.
    run(&["--rw=write", "--seed=5"]);
    run(&["--rw=randread", "--seed=5", "--bs=512"]);
    run(&["--rw=read", "--seed=5", "--bs=64K", "--offset=1M", "--size=3M", "--depth=4"]);
    let mut args = vec!["blk", "--verify", "--rw=read", "--seed=6", "--requests=8"];
    args.extend(back);
    assert!(failure(&args).contains("sector 0) is not what was written"), "of another seed");
}

#[test]
fn blk_verified_finds_the_place_where_a_disk_lies() {
    for (access, queues) in [("write", "1"), ("randrw", "2")] {
        // The disk has 2048 sectors. Byte 77 of sector 1011 comes back changed.
        let disk = Serving::start(Liar::new(2048, 1011, 77, 0));
        let socket = disk.socket();
        let socket = socket.as_str();
        let text = failure(&[
            "blk",
            "--rw",
            access,
            "--queues",
            queues,
            "--verify",
            "--destroy-data",
            "--requests=512",
            socket,
        ]);
        let at = 1011 * 512 + 77;
        assert!(text.contains(&format!("byte {at} (sector 1011) is not what was written")), "{text}");
        assert!(text.contains("damaged") && text.contains(socket), "{text}");
    }
}

#[test]
fn blk_cuts_requests_into_segments_as_the_disk_wants_them() {
    for (size_max, longest) in [(1500, 4096), (0, 1 << 20)] {
        // It lies about the last sector, which is not looked at.
        let disk = Serving::start(Liar::new(8192, 8191, 0, size_max));
        let socket = disk.socket();
        let run = |bs: u64| {
            let bs = bs.to_string();
            let args =
                ["blk", "--rw=randrw", "--verify", "--destroy-data", "--size=3M", "--depth=1", "--json"];
            bench(&args).args(["--requests=64", "--bs", &bs, &socket]).output().unwrap()
        };
        assert!(run(longest).status.success());
        assert_eq!(run(8192).status.success(), size_max == 0, "four segments of two sectors are 4 KiB");
    }
}

#[test]
fn blk_writes_to_a_socket_only_with_permission() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 1 << 20);
    let daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let untouched = || std::fs::read(&path).unwrap().iter().all(|&byte| byte == 0);
    for access in ["write", "randwrite", "randrw"] {
        let text = failure(&["blk", "--rw", access, "--requests=8", socket]);
        assert!(text.contains("--destroy-data") && text.contains(socket), "{text}");
        // Permission for the one is none for the other.
        let text = failure(&[
            "blk",
            "--rw",
            access,
            "--requests=8",
            "--vs",
            socket,
            "--",
            OUTBOARD,
            "run",
            "blk",
            "--log-level=warn",
        ]);
        assert!(text.contains("--destroy-data"), "{text}");
    }
    assert!(untouched());
    measured(&["blk", "--rw=write", "--requests=8", "--destroy-data", "--json", socket]);
    assert!(!untouched());
}

#[test]
fn blk_that_cannot_be_done_says_why() {
    let back = ["--", OUTBOARD, "run", "blk", "--log-level=warn", "--read-only", "--ram=1M"];
    for (options, reason) in [
        (["--rw=write", "--seed=1"].as_slice(), "read-only"),
        (&["--bs=1000"], "whole number of sectors"),
        (&["--bs=32M"], "at most 16M"),
        (&["--offset=2M"], "beyond the end"),
        (&["--size=2M"], "beyond the end of a disk of 1 MiB"),
        (&["--size=1K"], "not one block"),
        (&["--depth=200", "--queue-size=128"], "need a ring of 200"),
        (&["--queue-size=100"], "power of two"),
        (&["--queues=32"], "the device has 16"),
        (&["--verify", "--depth=64", "--queues=8"], "too few"),
        (&["--bs=16M", "--depth=16384", "--size=16M"], "too much"),
        (&["--cpu-back=4000"], "CPU"),
    ] {
        let all: Vec<_> = ["blk", "--requests=8"].iter().chain(options).chain(&back).copied().collect();
        let text = failure(&all);
        assert!(text.contains(reason), "{options:?}: {text}");
    }
    let text = failure(&["blk", "/nonexistent/socket"]);
    assert!(text.contains("/nonexistent/socket"), "{text}");
}

#[test]
fn back_end_that_dies_ends_the_measurement() {
    for wait in ["interrupt", "poll"] {
        let mut daemon = Daemon::spawn("blk", &[]);
        let socket = daemon.socket();
        let start = Instant::now();
        let child = bench(&["blk", "--time=3600", "--queues=2", "--wait", wait, socket.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let idle = daemon.resources().threads;
        eventually("the queues run", || daemon.resources().threads >= idle + 2);
        daemon.kill();
        let output = child.wait_with_output().unwrap();
        let (out, err) = texts(&output);
        assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("the back end closed the connection"), "{err}");
        assert!(start.elapsed() < LONG, "it took {:?}", start.elapsed());
    }
}

#[test]
fn rng_counts_the_bytes_that_came() {
    let json = measured(&[
        "rng",
        "--requests=100",
        "--bs=300",
        "--depth=4",
        "--json",
        "--",
        OUTBOARD,
        "run",
        "rng",
        "--log-level=warn",
    ]);
    let round = round(&json);
    consistent(round, 100);
    assert_eq!((round["bytes"].as_u64(), &round["out"]), (Some(30_000), &Value::Null));
}

#[test]
fn devices_that_answer_commands_count_what_was_answered() {
    let jobs: [(&str, &[&str], u64); 4] = [
        ("i2c", &["--bs=16"], 16),
        ("gpio", &["--line=3"], 1),
        ("scmi", &["--sensor=0"], 16),
        ("scmi", &[], 4),
    ];
    for (device, options, data) in jobs {
        let common = [device, "--requests=300", "--depth=4", "--json", "--format=packed"];
        let command = ["--", OUTBOARD, "run", device, "--log-level=warn"];
        let json = measured(&[&common[..], options, &command].concat());
        let round = round(&json);
        consistent(round, 300);
        assert_eq!(round["bytes"], 300 * data, "{device}");
    }
    // A line that there is not: no right answer.
    let command = ["--", OUTBOARD, "run", "gpio", "--log-level=error"];
    let said = failure(&[&["gpio", "--requests=10", "--line=999"][..], &command].concat());
    assert!(said.contains("a command is answered with [1]"), "{said}");
}

/// A socket device with somebody at one of the host's ports.
const SOCKETS: [&str; 7] =
    ["--", OUTBOARD, "run", "vsock", "--log-level=warn", "--guest-cid=3", "--service=7=echo"];

#[test]
fn sockets_are_measured_each_way_and_what_comes_back_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm");
    let options = [
        format!("--uds-path={}", path.display()),
        "--service=7=echo".to_owned(),
        "--service=9=discard".to_owned(),
        "--service=19=chargen".to_owned(),
    ];
    let back_end = ["--", OUTBOARD, "run", "vsock", "--log-level=warn", "--guest-cid=3"];
    let back_end = [&back_end[..], &options.each_ref().map(String::as_str)].concat();
    let at = |port: u32| format!("--at={}_{port}", path.display());
    let common = ["vsock", "--requests=400", "--depth=8", "--json"];
    let (seven, nine, nineteen) = (at(77), at(99), at(1999));
    let echoes: [&[&str]; 5] = [
        &["--verify", "--bs=1000"],
        &["--verify", "--bs=64K", "--format=packed", "--wait=poll"],
        &["--verify", "--messages", "--bs=10000"],
        &["--verify", "--port=77", &seven],
        &["--direction=send", "--port=99", &nine],
    ];
    for options in echoes {
        let json = measured(&[&common[..], options, &back_end].concat());
        let round = round(&json);
        consistent(round, 400);
        assert_eq!(round["bytes"], 400 * json["job"]["bs"].as_u64().unwrap(), "{options:?}");
        assert!(!path.with_file_name("vm_77").exists(), "what --at leaves");
    }
    consistent(round(&measured(&[&common[..], &["--direction=send"], &back_end].concat())), 400);
    for options in [&["--direction=receive"][..], &["--direction=receive", "--port=1999", &nineteen]] {
        let json = measured(&[&common[..], options, &back_end].concat());
        let round = round(&json);
        assert_eq!((&round["requests"], &round["out"]), (&400.into(), &Value::Null), "{options:?}");
        assert!(round["bytes"].as_u64().unwrap() >= 400, "{round}");
    }
}

#[test]
fn sockets_that_cannot_be_measured_are_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("at");
    let at = format!("--at={}", at.display());
    for (options, reason) in [
        (&["--port=8"][..], "a connection to port 8 is refused"),
        (&["--bs=65537"], "--bs is at least 1 and at most 64K"),
        (&["--queues=2"], "one queue each way"),
        (&["--direction=send", "--verify"], "--verify goes with"),
        (&[&at, &at], "once for each back end"),
        (&["--at=/nonexistent/x"], "cannot listen at /nonexistent/x"),
    ] {
        let said = failure(&[&["vsock", "--requests=10"][..], options, &SOCKETS].concat());
        assert!(said.contains(reason), "{options:?}: {said}");
    }
}

/// The options of a measurement of a device of ours, and its command.
fn of_ours<'a>(device: &'a str, job: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    let command = ["--", OUTBOARD, "run", device, "--log-level=error"];
    [&[device, "--json"][..], job, &command, options].concat()
}

#[test]
fn console_counts_the_bytes_of_each_way_and_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("far");
    let far = format!("--far={}", path.display());
    let socket = format!("--console=unix:{}", path.display());
    for format in ["--format=split", "--format=packed"] {
        for (job, options) in [
            (&["--direction=out"][..], &["--console=null"][..]),
            (&["--direction=out", &far], &[&*socket]),
            (&["--direction=loop"], &["--console=echo", "--single"]),
            (&["--direction=loop", "--wait=poll", &far], &[&*socket]),
            // More than an echo keeps, and less than its number has bytes.
            (&["--direction=loop", "--bs=64K", "--depth=9"], &["--console=echo"]),
            (&["--direction=loop", "--bs=3", "--depth=5", &far], &[&*socket]),
        ] {
            let json = measured(&of_ours("console", &[job, &["--requests=300", format]].concat(), options));
            let (round, bs) = (round(&json), json["job"]["bs"].as_u64().unwrap());
            assert_eq!(round["out"]["bytes"].as_u64(), Some(300 * bs), "{job:?}");
            assert_eq!((round["requests"].as_u64(), &round["in"]), (Some(300), &Value::Null));
            assert_eq!(round["latency_us"]["timed"], 300, "{job:?}");
        }
        let job = ["--direction=in", "--requests=300", "--bs=1000", &far, format];
        let json = measured(&of_ours("console", &job, &[&socket]));
        let round = round(&json);
        assert_eq!((round["in"]["requests"].as_u64(), &round["latency_us"]), (Some(300), &Value::Null));
        let bytes = round["bytes"].as_u64().unwrap();
        assert!((300..=300_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn console_that_cannot_be_measured_says_why() {
    for (job, options, reason) in [
        (&["--direction=in"][..], &["--console=echo"][..], "--far SOCKET"),
        (&["--bs=128K"], &[], "at most 64K"),
        (&["--queues=2"], &[], "one queue each way"),
        (&["--far=/there/is/none"], &[], "/there/is/none"),
        (&["--direction=loop", "--timeout=0.3"], &["--console=null"], "did not return a request within"),
    ] {
        let mut args = of_ours("console", &[&["--requests=10"], job].concat(), options);
        args.retain(|word| *word != "--json");
        let said = failure(&args);
        assert!(said.contains(reason), "{job:?}: {said}");
    }
}

#[test]
fn input_counts_the_reports_that_came_or_the_lights_that_went() {
    let dir = tempfile::tempdir().unwrap();
    let drive = format!("--drive={}", dir.path().join("drive").display());
    for format in ["--format=split", "--format=packed"] {
        for (job, bytes) in [
            (&[&*drive][..], 16),
            (&[&drive, "--events=40", "--depth=3"], 41 * 8),
            (&[&drive, "--depth=64", "--wait=poll"], 16),
            (&["--depth=7"], 8),
        ] {
            let job = [job, &["--requests=400", format]].concat();
            let json = measured(&of_ours("input", &job, &[&drive]));
            let (round, way) = (round(&json), if bytes > 8 { "in" } else { "out" });
            assert_eq!((round["requests"].as_u64(), round["bytes"].as_u64()), (Some(400), Some(400 * bytes)));
            assert_eq!(round[way]["latency_us"]["timed"], 400, "{job:?}");
        }
    }
}

#[test]
fn input_that_cannot_be_measured_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let drive = format!("--drive={}", dir.path().join("drive").display());
    for (job, options, reason) in [
        (&[&*drive][..], &[&*drive, "--synthetic=keyboard"][..], "the device has no event"),
        (&["--drive=/there/is/none"], &[], "/there/is/none"),
        (&["--depth=65", &drive], &[&drive], "at most 64 with --drive"),
        (&["--queues=2"], &[], "one queue each way"),
    ] {
        let mut args = of_ours("input", &[&["--requests=10"], job].concat(), options);
        args.retain(|word| *word != "--json");
        let said = failure(&args);
        assert!(said.contains(reason), "{job:?}: {said}");
    }
}

#[test]
fn back_end_that_works_for_long_has_taken_time() {
    let json = measured(&["rng", "--time=0.3", "--json", "--", OUTBOARD, "run", "rng", "--log-level=warn"]);
    let back_end = &round(&json)["back_end"];
    assert!(
        ["cpu_us_per_request", "cpu_percent"].iter().all(|name| back_end[name].as_f64() > Some(0.0)),
        "{json}"
    );
}

#[test]
fn versus_measures_in_turn_and_gives_the_ratios() {
    let daemon = Daemon::spawn("rng", &[]);
    let other = format!("{OUTBOARD} run rng '--log-level=warn' --poll \"off\"");
    let json = measured(&[
        "rng",
        "--requests=64",
        "--rounds=3",
        "--json",
        "--vs",
        &other,
        "--vs",
        daemon.socket().to_str().unwrap(),
        "--",
        OUTBOARD,
        "run",
        "rng",
        "--log-level=warn",
    ]);
    let targets = json["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 3);
    for target in targets {
        assert_eq!(target["rounds"].as_array().unwrap().len(), 3);
        target["rounds"].as_array().unwrap().iter().for_each(|round| consistent(round, 64));
    }
    let pids: Vec<_> =
        targets.iter().map(|it| it["rounds"][0]["back_end"]["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids[2], u64::from(daemon.pid()));
    assert!(pids[0] != pids[1] && pids[1] != pids[2]);
    let ratios = json["ratios"].as_array().unwrap();
    assert_eq!(ratios.len(), 2);
    let rate = |target: &Value, nth: usize| target["rounds"][nth]["requests_per_second"].as_f64().unwrap();
    for (ratio, other) in ratios.iter().zip(&targets[1..]) {
        assert_eq!(ratio["to"], other["name"]);
        let mut expected = [0, 1, 2].map(|nth| rate(&targets[0], nth) / rate(other, nth));
        expected.sort_by(f64::total_cmp);
        let found = &ratio["figures"]["requests_per_second"];
        let found = ["min", "median", "max"].map(|name| found[name].as_f64().unwrap());
        let close =
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < expected / 1e6);
        assert!(close, "{found:?} {expected:?}");
    }
}

#[test]
fn net_sends_and_takes_what_comes() {
    let network = Serving::start(Network::source(2));
    for (direction, wait) in [("tx", "interrupt"), ("tx", "poll"), ("rx", "interrupt"), ("rx", "poll")] {
        for format in ["split", "packed"] {
            let json = measured(&[
                "net",
                "--direction",
                direction,
                "--wait",
                wait,
                "--format",
                format,
                "--queues=2",
                "--frame-size=100",
                "--requests=500",
                "--json",
                &network.socket(),
            ]);
            let round = round(&json);
            assert_eq!((round["requests"].as_u64(), round["bytes"].as_u64()), (Some(500), Some(50_000)));
            let way = if direction == "tx" { "out" } else { "in" };
            assert_eq!(round[way]["requests"], 500);
            assert_eq!(round["latency_us"].is_null(), direction == "rx", "nobody knows when it was sent");
        }
    }
}

#[test]
fn net_loop_takes_back_what_it_sent() {
    let network = Serving::start(Network::echo(1));
    for options in [["--mergeable", "--wait=interrupt"], ["--in-order", "--wait=poll"]] {
        for (format, size) in [("split", "60"), ("packed", "1514")] {
            let json = measured(&[
                "net",
                "--direction=loop",
                options[0],
                options[1],
                "--format",
                format,
                "--frame-size",
                size,
                "--requests=500",
                "--depth=16",
                "--json",
                &network.socket(),
            ]);
            consistent(round(&json), 500);
        }
    }
}

#[test]
fn net_loop_with_segments_takes_back_every_byte() {
    for (format, size) in [("split", "65000"), ("packed", "1500")] {
        let format = format!("--format={format}");
        let size = format!("--frame-size={size}");
        let options = ["--mergeable", "--gso=1448", "--verify", "--requests=200", "--depth=4", "--json"];
        let back_end = ["--", OUTBOARD, "run", "net", "--backend=loop", "--log-level=warn"];
        let json =
            measured(&[&["net", "--direction=loop", &format, &size][..], &options, &back_end].concat());
        consistent(round(&json), 200);
        assert_eq!(round(&json)["lost"], 0);
    }
    let text = failure(&[
        "net",
        "--gso=100",
        "--frame-size=100",
        "--requests=5",
        &Serving::start(Network::echo(1)).socket(),
    ]);
    assert!(text.contains("makes no segments"), "{text}");
}

#[test]
fn net_made_up_frames_are_looked_at_to_the_last_byte() {
    let options = ["net", "--direction=rx", "--mergeable", "--verify", "--requests=500", "--json", "--"];
    let back_end = [OUTBOARD, "run", "net", "--backend=null", "--generate=1000", "--log-level=warn"];
    let json = measured(&[&options[..], &back_end].concat());
    assert_eq!(round(&json)["bytes"], 500_000);
    // These are all the same byte.
    let source = Serving::start(Network::source(1));
    let text = failure(&["net", "--direction=rx", "--verify", "--requests=5", &source.socket()]);
    assert!(text.contains("not what it was made as"), "{text}");
}

#[test]
fn net_frames_that_are_lost_are_counted() {
    let network = Serving::start(Network::forgetful());
    let json =
        measured(&["net", "--direction=loop", "--requests=30", "--depth=2", "--json", &network.socket()]);
    assert_eq!(round(&json)["requests"], 30);
    assert!(round(&json)["lost"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn net_that_changes_what_it_echoes_is_found_out() {
    let network = Serving::start(Network::liar());
    let text = failure(&["net", "--direction=loop", "--requests=500", &network.socket()]);
    assert!(text.contains("a frame that it was not given"), "{text}");
}

#[test]
fn net_without_traffic_reports_that_nothing_came() {
    let network = Serving::start(Network::echo(1));
    let json = measured(&["net", "--direction=rx", "--time=0.1", "--warmup=0", "--json", &network.socket()]);
    assert_eq!((round(&json)["requests"].as_u64(), round(&json)["latency_us"].is_null()), (Some(0), true));
    let text = failure(&["net", "--direction=rx", "--requests=5", "--timeout=0.1", &network.socket()]);
    assert!(text.contains("nothing came"), "{text}");
}

#[test]
fn text_has_the_figures_and_no_control_characters() {
    let args = ["blk", "--requests=300", "--rw=randrw", "--", OUTBOARD, "run", "blk", "--log-level=warn"];
    let output = bench(&args).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    for part in
        ["blk randrw (50 % reads), 4 KiB, depth 32", "k requests/s", "p99.99", "back end ", "kicks and"]
    {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    assert!(out.chars().all(|char| char == '\n' || !char.is_control()), "{out:?}");
}

#[test]
fn plot_that_cannot_be_written_does_not_cost_the_figures() {
    let args = ["bench", "rng", "--requests=1", "--plot=/nonexistent/x.svg", "--", OUTBOARD, "run", "rng"];
    let output = Command::new(OUTBOARD).args(args).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("k requests/s"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write /nonexistent/x.svg"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn plot_is_a_picture_of_both_back_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plot.svg");
    let other = format!("{OUTBOARD} run rng --log-level=error");
    measured(&[
        "rng",
        "--time=0.1",
        "--rounds=2",
        "--json",
        "--plot",
        path.to_str().unwrap(),
        "--vs",
        &other,
        "--",
        OUTBOARD,
        "run",
        "rng",
        "--log-level=warn",
    ]);
    let svg = std::fs::read_to_string(&path).unwrap();
    well_formed(&svg);
    assert!(svg.contains("--log-level=error") && svg.contains("--log-level=warn"), "the legend names both");
    assert!(svg.matches("<polyline").count() >= 6, "two rounds and a distribution of each");
    // A measurement too short for any moment is drawn as well.
    measured(&[
        "rng",
        "--requests=1",
        "--json",
        "--plot",
        path.to_str().unwrap(),
        "--",
        OUTBOARD,
        "run",
        "rng",
        "--log-level=warn",
    ]);
    well_formed(&std::fs::read_to_string(&path).unwrap());
}

/// Every element that begins ends, in order, and nothing is left unescaped.
fn well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg.trim_start_matches('\u{feff}').trim();
    assert!(rest.starts_with("<svg"), "{}", &rest[..rest.len().min(80)]);
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        for entity in text.split('&').skip(1) {
            assert!(entity.split_once(';').is_some_and(|(name, _)| name.len() < 7), "{text}");
        }
        let end = tag.find('>').expect("a tag that does not end");
        let inner = &tag[1..end];
        assert!(inner.matches('"').count() % 2 == 0 && !inner.contains('<'), "{inner}");
        match inner.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if inner.ends_with('/') => {}
            None => open.push(inner.split_whitespace().next().unwrap()),
        }
        rest = &tag[end + 1..];
        assert!(!open.is_empty() || rest.trim().is_empty(), "something behind the end");
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
}

#[test]
fn baseline_prints_its_bars_whether_they_hold_or_not() {
    let output = bench(&["baseline", "--rounds=1", "--time=0.02", "--json"]).output().unwrap();
    let (out, err) = texts(&output);
    let json: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let bars = json["bars"].as_array().unwrap();
    assert_eq!(bars.len(), 4);
    let hold = bars.iter().all(|bar| bar["holds"].as_bool().unwrap());
    assert_eq!(output.status.code(), Some(i32::from(!hold)), "{err}");
    for (name, figures) in json["rounds"].as_object().unwrap() {
        // Who does not get his turn in so short a time has done nothing.
        assert!(figures.as_array().unwrap().iter().all(|figure| figure.as_f64().unwrap() >= 0.0), "{name}");
    }
}

#[test]
fn null_device_is_a_program_like_any_back_end() {
    let output = bench(&["null", "--print-capabilities"]).output().unwrap();
    let (out, _) = texts(&output);
    assert!(output.status.success() && out.contains("null"), "{out}");
}
