//! What the lines of the control socket mean, and what is under way for them. The lines are the client's.

use std::sync::Arc;

use outboard_backend::{Notice, Pending, REFRESH, Remote, STATUS};
use outboard_device::defs::DeviceId;
use outboard_device::serde_json::{Map, Value, json};

use crate::Program;
use crate::household::Promise;
use crate::request::Request;
use crate::station::Station;

/// The command that lists the devices.
const DEVICES: &str = "devices";
/// The commands that have devices come and go.
const ADD: &str = "add";
const REMOVE: &str = "remove";

/// The devices of the process.
pub(crate) trait Devices {
    /// Those that are there.
    fn listed(&self) -> Vec<Arc<Listed>>;

    /// Begins to open one that `keys` describe. `answered` is given when that has ended.
    ///
    /// # Errors
    /// What is wrong with it.
    fn add(&self, keys: &Map<String, Value>, answered: Notice) -> Result<Promise, String>;

    /// Begins to send one away.
    ///
    /// # Errors
    /// There is none of that name.
    fn remove(&self, name: &str, answered: Notice) -> Result<Promise, String>;
}

/// A device, as the control socket knows it.
pub(crate) struct Listed {
    name: String,
    kind: &'static str,
    id: DeviceId,
    /// Where its front end connects.
    socket: String,
    remote: Remote,
}

impl Listed {
    pub(crate) fn new<P: Program>(name: &str, station: &Station<P::Device>) -> Self {
        let backend = &station.backend;
        Self {
            name: name.to_owned(),
            kind: P::TYPE,
            id: backend.profile().id,
            socket: station.door.to_string(),
            remote: backend.remote(),
        }
    }

    fn shown(&self) -> Map<String, Value> {
        let shown = [
            ("name", self.name.as_str().into()),
            ("type", self.kind.into()),
            ("device_id", self.id.0.into()),
            ("socket", self.socket.as_str().into()),
        ];
        shown.into_iter().map(|(key, value): (&str, Value)| (key.to_owned(), value)).collect()
    }
}

/// A request that devices were asked for.
pub(super) struct Work {
    parts: Vec<Part>,
    /// The answer is a list, with an entry for each device.
    list: bool,
}

/// What one device says.
struct Part {
    /// What stands in front of it.
    shown: Map<String, Value>,
    state: PartState,
}

enum PartState {
    Asked(Pending),
    Promised(Promise),
    Answered(Result<Value, String>),
}

/// Begins with a line. An error is what the client did wrong.
pub(super) fn begin(line: &[u8], devices: &impl Devices, answered: &Notice) -> Result<Work, String> {
    let request = Request::parse(line)?;
    if matches!(request.command.as_str(), ADD | REMOVE) {
        let promise = request.begin(devices, answered.clone())?;
        let part = Part { shown: Map::new(), state: PartState::Promised(promise) };
        return Ok(Work { parts: vec![part], list: false });
    }
    let devices = devices.listed();
    let chosen: Vec<&Arc<Listed>> = match &request.device {
        Some(name) => match devices.iter().find(|device| device.name == *name) {
            Some(device) => vec![device],
            None => return Err(format!("there is no device {name:?}; there is {}", names(&devices))),
        },
        None => devices.iter().collect(),
    };
    if request.command == DEVICES {
        let parts = chosen
            .into_iter()
            .map(|device| Part { shown: device.shown(), state: PartState::Answered(Ok(Value::Null)) });
        return Ok(Work { parts: parts.collect(), list: true });
    }
    let for_all = matches!(request.command.as_str(), STATUS | REFRESH);
    if chosen.len() != 1 && !for_all {
        return Err(format!("{} needs a device: there is {}", request.command, names(&devices)));
    }
    let parts = chosen.into_iter().map(|device| {
        let asked = device.remote.ask(request.command.clone(), request.arguments.clone(), answered.clone());
        Part {
            shown: match request.command.as_str() {
                STATUS => device.shown(),
                REFRESH => [("name".to_owned(), device.name.as_str().into())].into_iter().collect(),
                _ => Map::new(),
            },
            state: asked.map_or_else(
                |error| PartState::Answered(Err(crate::logging::one_line(&error))),
                PartState::Asked,
            ),
        }
    });
    Ok(Work { parts: parts.collect(), list: for_all && request.device.is_none() })
}

fn names(devices: &[Arc<Listed>]) -> String {
    if devices.is_empty() {
        return "none".to_owned();
    }
    devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ")
}

impl Work {
    /// The answer, if it is there; what is there, if it is `late`.
    pub(super) fn poll(&mut self, late: bool) -> Option<Value> {
        let mut done = true;
        for part in &mut self.parts {
            done &= part.poll(late);
        }
        if !done {
            return None;
        }
        let mut answers = std::mem::take(&mut self.parts).into_iter().map(Part::answer);
        if self.list {
            let list: Vec<Value> = answers
                .map(|answer| answer.unwrap_or_else(|(shown, reason)| failed(shown, &reason)))
                .collect();
            return Some(json!({ "return": list }));
        }
        match answers.next()? {
            Ok(value) => Some(json!({ "return": value })),
            Err((_, reason)) => Some(json!({ "error": reason })),
        }
    }
}

fn failed(mut shown: Map<String, Value>, reason: &str) -> Value {
    shown.insert("error".to_owned(), reason.into());
    shown.into()
}

impl PartState {
    fn give_up(&self) -> Result<Value, String> {
        Err(match self {
            Self::Asked(pending) => crate::logging::one_line(&pending.give_up()),
            _ => "the device takes its time; it may still come, or go".to_owned(),
        })
    }
}

impl Part {
    /// Whether it is answered.
    fn poll(&mut self, late: bool) -> bool {
        let answer = match &self.state {
            PartState::Answered(_) => return true,
            PartState::Asked(pending) => {
                pending.poll().map(|answer| answer.map_err(|error| crate::logging::one_line(&error)))
            }
            PartState::Promised(promise) => promise.poll(),
        };
        let Some(answer) = answer.or_else(|| late.then(|| self.state.give_up())) else { return false };
        self.state = PartState::Answered(answer);
        true
    }

    fn answer(self) -> Result<Value, (Map<String, Value>, String)> {
        let Self { mut shown, state } = self;
        let answer = match state {
            PartState::Answered(answer) => answer,
            unanswered => unanswered.give_up(),
        };
        match answer {
            Err(reason) => Err((shown, reason)),
            Ok(value) if shown.is_empty() => Ok(value),
            Ok(Value::Object(more)) => {
                shown.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
                Ok(shown.into())
            }
            Ok(_) => Ok(shown.into()),
        }
    }
}

impl Request {
    /// Has a device come or go.
    fn begin(&self, devices: &impl Devices, answered: Notice) -> Result<Promise, String> {
        let keys = self.arguments.as_object().filter(|keys| !keys.is_empty());
        match (self.command.as_str(), &self.device, keys) {
            (ADD, None, Some(keys)) => devices.add(keys, answered),
            (ADD, ..) => Err("add takes the keys of a device as its arguments".to_owned()),
            (_, Some(name), None) => devices.remove(name, answered),
            _ => Err("remove takes a device, and no arguments".to_owned()),
        }
    }
}
