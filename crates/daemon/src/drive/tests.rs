use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use outboard_device::serde_json::{self, json};
use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// Says what it was told, and tells of it.
struct Parrot {
    teller: Teller,
    heard: Mutex<Sender<(String, Value)>>,
}

impl Driven for Parrot {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        self.heard.lock().unwrap().send((command.to_owned(), arguments.clone())).unwrap();
        match command {
            "wrong" => Err(DeviceError::UnknownCommand(command.to_owned())),
            "much" => Ok(json!("x".repeat(100 << 10))),
            "guest" => {
                for count in 0..arguments["times"].as_u64().unwrap_or(1) {
                    self.teller
                        .tell(|| json!({ "event": command, "count": count, "more": "x".repeat(1000) }));
                }
                Ok(Value::Null)
            }
            _ => Ok(arguments.clone()),
        }
    }
}

struct Rig {
    directory: TempDir,
    driver: Option<Driver>,
    teller: Teller,
    heard: Receiver<(String, Value)>,
}

impl Rig {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        std::fs::write(&path, script).unwrap();
        let script = (!script.is_empty()).then_some(path);
        let args = DriveArgs { drive: Some(directory.path().join("drive")), script, script_repeat: false };
        let teller = Teller::new().unwrap();
        let (hear, heard) = channel();
        let parrot = Parrot { teller: teller.clone(), heard: Mutex::new(hear) };
        let driver = Driver::start(&args, &teller, Arc::new(parrot)).unwrap();
        Self { directory, driver: Some(driver), teller, heard }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("drive")
    }

    fn client(&self) -> Client {
        Client::new(&self.socket())
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.hear()
    }
}

#[test]
fn commands_are_answered_one_after_the_other() {
    let rig = Rig::new("");
    let mode = std::fs::metadata(rig.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    let mut client = rig.client();
    let answer = client.ask(r#"{"command": "say", "arguments": {"a": 1}}"#);
    assert_eq!(answer, json!({ "return": { "a": 1 } }));
    assert_eq!(rig.heard.recv().unwrap(), ("say".to_owned(), json!({ "a": 1 })));
    for (line, reason) in [
        ("x", "not JSON"),
        (r#"{"command": "wrong"}"#, "no command \"wrong\""),
        (r#"{"command": "say", "device": "a"}"#, "one device"),
    ] {
        let error = client.ask(line);
        assert!(error["error"].as_str().unwrap().contains(reason), "{error}");
    }
    // More than one turn, in one go, with blank lines and without a last line feed.
    let many: Vec<String> =
        (0..500).map(|n| format!("{{\"command\": \"say\", \"arguments\": {{\"n\": {n}}}}}\n\n")).collect();
    client.say(many.concat().trim_end());
    client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    for n in 0..500 {
        assert_eq!(client.hear(), json!({ "return": { "n": n } }));
    }
}

#[test]
fn client_that_watches_hears_what_the_guest_does_and_one_that_does_not_read_is_let_go() {
    let rig = Rig::new("");
    let (mut watcher, mut deaf, mut other) = (rig.client(), rig.client(), rig.client());
    assert_eq!(other.ask(r#"{"command": "guest"}"#), json!({ "return": null }));
    for client in [&mut watcher, &mut deaf] {
        assert_eq!(client.ask(r#"{"command": "watch"}"#), json!({ "return": null }));
    }
    for _ in 0..20 {
        other.ask(r#"{"command": "guest", "arguments": {"times": 100}}"#);
        for count in 0..100 {
            assert_eq!(watcher.hear()["count"], count);
        }
    }
    // What fitted the socket is there, then the end.
    let mut heard = 0;
    while deaf.0.read_line(&mut String::new()).unwrap() > 0 {
        heard += 1;
    }
    assert!(heard < 2000, "{heard}");
    assert_eq!(watcher.ask(r#"{"command": "say"}"#), json!({ "return": {} }));
}

#[test]
fn answers_that_are_not_read_hold_up_their_client_alone() {
    let rig = Rig::new("");
    let (mut slow, mut quick) = (rig.client(), rig.client());
    for _ in 0..30 {
        slow.say(r#"{"command": "much"}"#);
    }
    assert_eq!(quick.ask(r#"{"command": "say"}"#), json!({ "return": {} }));
    for _ in 0..30 {
        assert_eq!(slow.hear()["return"].as_str().unwrap().len(), 100 << 10);
    }
}

#[test]
fn script_begins_when_the_guest_does_and_ends_with_its_device() {
    let lines = ["{\"command\": \"first\"}", "{\"after\": 2, \"command\": \"wrong\"}"];
    let last = "{\"at\": 5, \"command\": \"last\", \"arguments\": {\"x\": 1}}\n{\"at\": 3600000, \"command\": \"never\"}";
    let mut rig = Rig::new(&[lines.join("\n").as_str(), last].join("\n"));
    assert_eq!(rig.client().ask(r#"{"command": "say"}"#), json!({ "return": {} }));
    assert_eq!(rig.heard.recv_timeout(LONG).unwrap().0, "say");
    assert!(rig.heard.try_recv().is_err());
    rig.teller.begin();
    rig.teller.begin();
    for expected in ["first", "wrong", "last"] {
        assert_eq!(rig.heard.recv_timeout(LONG).unwrap().0, expected);
    }
    drop(rig.driver.take());
    assert!(rig.heard.recv_timeout(LONG).is_err(), "nobody drives any more");
    assert!(!rig.socket().exists());
}

#[test]
fn options_that_make_no_sense_are_told_before_anything_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let start = |drive: Option<&str>, script: Option<&str>| {
        let path = |name: &str| directory.path().join(name);
        let args = DriveArgs { drive: drive.map(path), script: script.map(path), script_repeat: false };
        let teller = Teller::new().unwrap();
        let parrot = Parrot { teller: teller.clone(), heard: Mutex::new(channel().0) };
        Driver::start(&args, &teller, Arc::new(parrot)).map_err(|error| crate::logging::one_line(&error))
    };
    std::fs::write(directory.path().join("file"), "x").unwrap();
    assert!(start(None, None).unwrap().thread.is_none());
    assert!(start(Some("file"), None).unwrap_err().contains("driving socket"));
    assert!(start(None, Some("none")).unwrap_err().contains("No such file"));
    assert!(start(None, Some("file")).unwrap_err().contains("line 1"));
}
