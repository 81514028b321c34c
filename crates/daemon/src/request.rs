//! What a line of a socket for commands means: `{"command": .., "device": .., "arguments": {..}}`. It is the client's.

use outboard_device::serde_json::{self, Map, Value, json};

/// A line that makes sense.
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) device: Option<String>,
    /// An object.
    pub(crate) arguments: Value,
}

impl Request {
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let request = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(mut request) = request else {
            return Err("a request is an object: {\"command\": ...}".to_owned());
        };
        Self::take(&mut request)
    }

    /// What `object` says, all of whose keys are a request's.
    pub(crate) fn take(object: &mut Map<String, Value>) -> Result<Self, String> {
        let mut text = |key: &str| match object.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{key}: a text")),
        };
        let (command, device) = (text("command")?, text("device")?);
        let arguments = object.remove("arguments").unwrap_or_else(|| json!({}));
        if !arguments.is_object() {
            return Err("arguments: an object".to_owned());
        }
        if let Some(key) = object.keys().next() {
            return Err(format!("{key:?} is not part of a request: command, device, arguments"));
        }
        let command = command.ok_or("a request has a command")?;
        Ok(Self { command, device, arguments })
    }
}
