//! The control socket's client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

/// Has a program with one device do something, and gives its answer. `arguments` may be null.
pub(crate) fn ask(control: &Path, command: &str, arguments: &Value) -> Value {
    let mut stream = UnixStream::connect(control).unwrap();
    let request = match arguments {
        Value::Null => json!({ "command": command }),
        arguments => json!({ "command": command, "arguments": arguments }),
    };
    writeln!(stream, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let mut answer: Value = serde_json::from_str(&line).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    answer["return"].take()
}
