//! `outboard probe` against our own back ends, and against ones made up here: of every shape, and hostile ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures as P};
use outboard_virtio_defs::features::{VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1};
use serde_json::{Value, json};

/// What a made-up back end does when asked.
enum Act {
    Answer(Vec<u8>),
    /// Bytes as they are, without the header that belongs before them.
    Raw(Vec<u8>),
    /// The same, and nothing more.
    Last(Vec<u8>),
    Silence,
    Close,
}

/// Makes an act whenever it is wanted.
type Make = fn() -> Act;

/// Takes the place of an answer, where it has something to say.
type Spoil = dyn Fn(Code, &[u8]) -> Option<Act> + Send + Sync;

/// A made-up back end. Whatever it lacks it answers with a zero.
#[derive(Clone)]
struct Shape {
    features: u64,
    protocol: P,
    queues: u64,
    slots: u64,
    config: Vec<u8>,
    /// Spoils an answer.
    spoil: Arc<Spoil>,
}

impl Shape {
    fn new(features: u64, queues: u64, config: &[u8]) -> Self {
        Self {
            features: features | VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES,
            protocol: P::MQ | P::CONFIG | P::REPLY_ACK | P::CONFIGURE_MEM_SLOTS,
            queues,
            slots: 8,
            config: config.to_vec(),
            spoil: Arc::new(|_, _| None),
        }
    }

    fn spoilt(self, spoil: impl Fn(Code, &[u8]) -> Option<Act> + Send + Sync + 'static) -> Self {
        Self { spoil: Arc::new(spoil), ..self }
    }

    fn act(&self, code: Code, flags: u32, body: &[u8]) -> Act {
        if let Some(act) = (self.spoil)(code, body) {
            return act;
        }
        let number = |number: u64| Act::Answer(number.to_ne_bytes().to_vec());
        match code {
            Code::GET_FEATURES => number(self.features),
            Code::GET_PROTOCOL_FEATURES => number(self.protocol.0),
            Code::GET_QUEUE_NUM => number(self.queues),
            Code::GET_MAX_MEM_SLOTS => number(self.slots),
            Code::GET_CONFIG => {
                let field = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap()) as usize;
                match self.config.get(field(0)..field(0) + field(4)) {
                    Some(bytes) => Act::Answer([&body[..12], bytes].concat()),
                    None => Act::Answer(Vec::new()),
                }
            }
            Code::GET_VRING_BASE => Act::Answer(body.to_vec()),
            Code::GET_INFLIGHT_FD => Act::Answer(vec![0; 24]),
            Code::GET_SHMEM_CONFIG => Act::Answer(vec![0; 2056]),
            Code::GET_STATUS => number(0),
            _ if flags & 8 != 0 => number(0),
            _ => Act::Silence,
        }
    }

    /// Serves one connection until either side closes.
    fn serve(&self, mut stream: UnixStream) {
        let mut header = [0; 12];
        while stream.read_exact(&mut header).is_ok() {
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
            let mut body = vec![0; word(8) as usize];
            if stream.read_exact(&mut body).is_err() {
                return;
            }
            let answer = match self.act(Code(word(0)), word(4), &body) {
                Act::Answer(body) => [&message(word(0), body.len())[..], &body].concat(),
                Act::Raw(bytes) => bytes,
                Act::Last(bytes) => {
                    let _ = stream.write_all(&bytes);
                    return;
                }
                Act::Silence => continue,
                Act::Close => return,
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

/// The header of a reply.
fn message(code: u32, len: usize) -> Vec<u8> {
    [code, 5, u32::try_from(len).unwrap()].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A made-up back end that listens.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn listen(shape: Shape) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                shape.serve(stream.unwrap());
            }
        });
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }
}

fn probe(socket: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.arg("probe").args(options).arg(socket).output().unwrap()
}

/// The report, of a probe that has the status it should have.
fn report(socket: &Path, options: &[&str], status: i32) -> Value {
    let output = probe(socket, &[&["--json"], options].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn report_of(shape: Shape) -> Value {
    report(&Fake::listen(shape).socket(), &[], 0)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

fn le16(value: u16) -> [u8; 2] {
    value.to_le_bytes()
}

/// The configuration of a disk: capacity, and a block size.
fn disk_config(sectors: u64, block: u32) -> Vec<u8> {
    let mut config = vec![0; 60];
    config[..8].copy_from_slice(&sectors.to_le_bytes());
    config[20..24].copy_from_slice(&block.to_le_bytes());
    config
}

#[test]
fn probe_of_our_disk_tells_all_there_is() {
    let daemon = rig::Daemon::spawn("blk", &["--ram=64M", "--num-queues=2"]);
    let report = report(&daemon.socket(), &["--trial"], 0);
    assert_eq!(report["device"]["type"], "blk", "{report:#}");
    assert_eq!(report["device"]["confidence"], "likely");
    assert_eq!(report["program"]["pid"], daemon.pid());
    assert_eq!(report["queues"]["count"], 2);
    assert_eq!(report["queues"]["known"], "told");
    assert_eq!(report["queues"]["longest"][1], json!({"queue": 1, "entries": 32768}));
    let capacity = &report["config"]["fields"][0];
    assert_eq!((&capacity["name"], &capacity["value"]), (&json!("capacity"), &json!(131_072)));
    assert_eq!(capacity["words"], "64 MiB");
    assert!(report["memory_slots"].as_u64().unwrap() >= 8);
    assert!(report["inflight"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["back_channel"], true);
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["migration"]["dirty_log"], true);
    assert_eq!(report["migration"]["postcopy"], false);
    let bits = report["features"]["bits"].as_array().unwrap();
    assert!(bits.contains(&json!({"bit": 9, "name": "FLUSH"})), "{bits:?}");
    for front_end in report["front_ends"].as_array().unwrap() {
        assert_eq!(front_end["verdict"], "works", "{front_end}");
    }
}

#[test]
fn probe_of_our_disk_leaves_it_as_it_was() {
    let daemon = rig::Daemon::spawn("blk", &["--ram=64M"]);
    let before = daemon.settled();
    for _ in 0..3 {
        report(&daemon.socket(), &["--trial"], 0);
    }
    assert_eq!(daemon.settled(), before);
}

#[test]
fn probe_as_text_shows_names_and_sizes() {
    let daemon = rig::Daemon::spawn("blk", &["--ram=64M"]);
    let text = text(&probe(&daemon.socket(), &[]));
    for part in ["blk (id 2): a likely guess", "131072 sectors (64 MiB)", "FLUSH", "REPLY_ACK", "would work"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn probe_of_a_command_starts_it_and_tries_out_what_it_takes() {
    let program = env!("CARGO_BIN_EXE_outboard");
    let output =
        Command::new(program).args(["probe", "--json", "--", program, "run", "rng"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"]["type"], "rng", "{report:#}");
    assert_eq!(report["queues"]["longest"], json!([{"queue": 0, "entries": 32768}]));
}

#[test]
fn guess_follows_features_queues_and_configuration() {
    let net = [&[2, 0, 0, 0, 0, 1][..], &le16(1), &le16(1), &le16(1500)].concat();
    let fs = [&b"shared"[..], &[0; 30], &[1, 0, 0, 0]].concat();
    let gpio = [&le16(4)[..], &[0, 0, 20, 0, 0, 0]].concat();
    let cases = [
        ("net", Shape::new(1 << 0 | 1 << 3 | 1 << 5 | 1 << 15, 2, &net)),
        ("fs", Shape::new(0, 2, &fs)),
        ("vsock", Shape::new(0, 3, &[3, 0, 0, 0, 0, 0, 0, 0])),
        ("input", Shape::new(0, 2, &[0; 136])),
        ("gpio", Shape::new(1, 2, &gpio)),
        ("blk", Shape::new(1 << 6 | 1 << 9, 1, &disk_config(2048, 4096))),
    ];
    for (name, shape) in cases {
        let report = report_of(shape);
        assert_eq!(report["device"]["type"], name, "{:#}", report["device"]);
        assert_eq!(report["device"]["confidence"], "likely", "{:#}", report["device"]);
        assert_eq!(report["config"]["exact"], true);
        assert_eq!(notes(&report).contains("pairs"), name == "net");
    }
}

#[test]
fn guess_that_two_types_fit_equally_names_both() {
    // Four lines without names, or the context identifier 4.
    let device = &report_of(Shape::new(1, 2, &[4, 0, 0, 0, 0, 0, 0, 0]))["device"];
    assert_eq!(device["confidence"], "possible", "{device:#}");
    let all = format!("{} {}", device["type"], device["alternatives"]);
    assert!(all.contains("gpio") && all.contains("vsock"), "{all}");
}

#[test]
fn guess_with_little_to_go_by_says_so() {
    let mut shape = Shape::new(0, 2, &[]);
    shape.protocol = P::MQ;
    let device = &report_of(shape)["device"];
    assert_ne!(device["confidence"], "likely", "{device:#}");
    assert!(!device["alternatives"].as_array().unwrap().is_empty(), "{device:#}");
}

#[test]
fn type_that_is_asked_for_is_taken_with_what_speaks_against_it() {
    let fake = Fake::listen(Shape::new(1 << 6 | 1 << 9, 1, &disk_config(2048, 512)));
    let device = &report(&fake.socket(), &["--device", "vsock"], 0)["device"];
    assert_eq!((&device["type"], &device["confidence"]), (&json!("vsock"), &json!("asked")));
    assert!(device["against"].to_string().contains("6, 9"), "{device:#}");
    let output = probe(&fake.socket(), &["--device", "toaster"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn input_device_is_asked_for_its_name_only_if_the_user_says_that_it_is_one() {
    let named = |code, body: &[u8]| match code {
        // Whatever was selected; the name is there only after a selection.
        Code::SET_CONFIG => {
            assert_eq!(body[12..16], [1, 0, 0, 0]);
            None
        }
        Code::GET_CONFIG if body[4] == 136 => {
            let mut config = vec![0; 136];
            config[..3].copy_from_slice(&[1, 0, 6]);
            config[8..14].copy_from_slice(b"a\x1b[31m");
            Some(Act::Answer([&body[..12], &config].concat()))
        }
        _ => None,
    };
    let fake = Fake::listen(Shape::new(0, 2, &[0; 136]).spoilt(named));
    let report = report(&fake.socket(), &["--device", "input"], 0);
    let name = report["config"]["fields"].as_array().unwrap().last().unwrap();
    assert_eq!(name["value"], "a\u{1b}[31m");
    // What a terminal would take for a command does not reach it.
    let text = text(&probe(&fake.socket(), &["--device", "input"]));
    assert!(text.contains("[31m") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn length_of_a_configuration_is_found_where_more_is_refused() {
    for len in [1, 7, 60, 255, 256, 300] {
        let config: Vec<u8> = (0..len).map(|byte| byte as u8 | 1).collect();
        let report = report_of(Shape::new(0, 1, &config));
        let found = &report["config"];
        assert_eq!((&found["length"], &found["exact"]), (&json!(len), &json!(true)), "{len}: {report:#}");
    }
}

#[test]
fn configuration_that_is_read_in_one_piece_only_is_read_so() {
    let spoil =
        |code, body: &[u8]| (code == Code::GET_CONFIG && body[4] != 57).then_some(Act::Answer(Vec::new()));
    let report = report_of(Shape::new(1 << 6, 1, &disk_config(2048, 512)).spoilt(spoil));
    assert_eq!(report["config"]["length"], 57, "{report:#}");
}

#[test]
fn configuration_without_an_end_is_given_up() {
    let spoil = |code, body: &[u8]| {
        let size = || u32::from_ne_bytes(body[4..8].try_into().unwrap()) as usize;
        (code == Code::GET_CONFIG).then(|| Act::Answer([&body[..12], &vec![0xff; size()]].concat()))
    };
    let report = report_of(Shape::new(0, 1, &[]).spoilt(spoil));
    assert_eq!(report["config"]["length"], 4096);
    assert!(notes(&report).contains("no end"), "{report:#}");
}

#[test]
fn configuration_shorter_than_asked_for_is_noted() {
    let spoil = |code, body: &[u8]| {
        let short = || [&body[..4], &4_u32.to_ne_bytes(), &body[8..12], &[1, 2, 3, 4]].concat();
        (code == Code::GET_CONFIG && body[4] != 4).then(|| Act::Answer(short()))
    };
    let report = report_of(Shape::new(0, 1, &[1, 2, 3, 4]).spoilt(spoil));
    assert!(
        notes(&report).contains("256 bytes of configuration: it answers with another amount"),
        "{report:#}"
    );
}

#[test]
fn back_end_without_protocol_features_is_shown() {
    let mut shape = Shape::new(0, 1, &[]);
    shape.features = VIRTIO_F_VERSION_1;
    let only_two = |code, body: &[u8]| (code == Code::GET_VRING_BASE && body[0] >= 2).then_some(Act::Close);
    let fake = Fake::listen(shape.spoilt(only_two));
    let found = report(&fake.socket(), &[], 0);
    assert_eq!(found["protocol_features"], Value::Null);
    assert_eq!(found["queues"]["count"], Value::Null);
    assert_eq!(found["features"]["bits"], json!([{"bit": 32, "name": "VERSION_1"}]));
    let tried = report(&fake.socket(), &["--trial"], 0);
    assert_eq!(tried["queues"]["count"], 2, "{tried:#}");
    assert_eq!(tried["queues"]["known"], "tried");
}

#[test]
fn longest_ring_is_found_where_longer_ones_are_refused_or_end_the_connection() {
    fn nack() -> Vec<u8> {
        [message(Code::SET_VRING_NUM.0, 8), 1_u64.to_ne_bytes().to_vec()].concat()
    }
    let refusals: [(Make, bool); 3] = [
        (|| Act::Raw(nack()), false),
        (|| Act::Close, true),
        // As back ends built on the crate vhost-user-backend: an answer, and the end.
        (|| Act::Last(nack()), true),
    ];
    for (refusal, closes) in refusals {
        let spoil = move |code, body: &[u8]| {
            let entries = || u32::from_ne_bytes(body[4..8].try_into().unwrap());
            (code == Code::SET_VRING_NUM && entries() > 256).then(refusal)
        };
        let fake = Fake::listen(Shape::new(1, 3, &[]).spoilt(spoil));
        let report = report(&fake.socket(), &["--trial"], 0);
        let longest: Vec<_> = (0..3).map(|queue| json!({"queue": queue, "entries": 256})).collect();
        assert_eq!(report["queues"]["longest"], json!(longest), "{report:#}");
        assert_eq!(notes(&report).contains("ends the connection"), closes, "{report:#}");
    }
}

#[test]
fn protocol_features_that_miss_what_they_need_and_unknown_ones_are_told() {
    let mut shape = Shape::new(1 << 60, 1, &[]);
    shape.protocol = P::MQ | P::INBAND_NOTIFICATIONS | P::BACKEND_REQ | P(1 << 40);
    let report = report_of(shape);
    assert!(notes(&report).contains("INBAND_NOTIFICATIONS without REPLY_ACK"), "{report:#}");
    let bits = report["protocol_features"]["bits"].as_array().unwrap();
    assert!(bits.contains(&json!({"bit": 40, "name": null})), "{bits:?}");
}

#[test]
fn huge_numbers_are_shown_and_believed_by_nobody() {
    let mut shape = Shape::new(1, u64::MAX, &[]);
    shape.slots = u64::MAX;
    shape.protocol |= P::INFLIGHT_SHMFD | P::STATUS;
    let fake = Fake::listen(shape);
    let report = report(&fake.socket(), &["--trial"], 0);
    assert_eq!(report["queues"]["count"], u64::MAX);
    assert_eq!(report["queues"]["longest"].as_array().unwrap().len(), 64);
    assert!(notes(&report).contains("no device has so many queues"), "{report:#}");
    assert!(probe(&fake.socket(), &[]).status.success());
}

#[test]
fn back_end_that_is_silent_is_given_up() {
    let fake = Fake::listen(Shape::new(0, 1, &[]).spoilt(|_, _| Some(Act::Silence)));
    let report = report(&fake.socket(), &["--timeout=0.1"], 1);
    assert!(report["error"].as_str().unwrap().contains("no answer to GET_FEATURES"), "{report:#}");
    assert_eq!(report["device"], Value::Null);
}

#[test]
fn back_end_that_fails_late_is_shown_as_far_as_it_answered() {
    let acts: [(Make, &str); 5] = [
        (|| Act::Close, "closed the connection over GET_CONFIG"),
        (|| Act::Silence, "no answer to GET_CONFIG"),
        (|| Act::Raw(vec![0xa5; 64]), "makes no sense"),
        (|| Act::Raw(vec![24, 0, 0]), "GET_CONFIG"),
        (|| Act::Raw([message(24, 0)[..8].to_vec(), vec![0xff; 4]].concat()), "limit"),
    ];
    for (act, what) in acts {
        let spoil = move |code, _: &[u8]| (code == Code::GET_CONFIG).then(act);
        let fake = Fake::listen(Shape::new(1 << 9, 3, &[]).spoilt(spoil));
        let report = report(&fake.socket(), &["--timeout=0.2"], 1);
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(what), "{error}");
        assert_eq!(report["queues"]["count"], 3);
        assert_eq!(report["memory_slots"], 8);
        assert_ne!(report["features"], Value::Null);
    }
}

#[test]
fn answer_to_another_question_ends_the_questions() {
    let spoil = |code, _: &[u8]| {
        (code == Code::GET_QUEUE_NUM).then(|| Act::Raw([message(1, 8), vec![0; 8]].concat()))
    };
    let fake = Fake::listen(Shape::new(0, 1, &[]).spoilt(spoil));
    let report = report(&fake.socket(), &[], 1);
    assert!(report["error"].as_str().unwrap().contains("GET_QUEUE_NUM"), "{report:#}");
    assert_eq!(report["queues"]["count"], Value::Null);
}

#[test]
fn nobody_behind_a_socket_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = probe(&dir.path().join("nobody"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cannot connect"), "{output:?}");
}
